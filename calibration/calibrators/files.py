"""A fitted calibrator on disk: safetensors for the numbers, JSON for what they mean.

``save_calibrator(folder, "temperature", parameters, num_classes)`` writes ``calibrator.json`` and
``calibrator.safetensors``; ``load_calibrator(folder)(logits)`` applies them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl2ora.calibration.calibrators.base import CalibrationContext, Calibrator, Parameters

FORMAT = {"format": "fl2ora calibrator", "version": 1}
DESCRIPTION = "calibrator.json"
NUMBERS = "calibrator.safetensors"

_SHOWN = 200  # characters of a spec
_SPEC = re.compile(r"^\s*(?P<name>[A-Za-z_][\w-]*)\s*(?P<call>\(.*\))?\s*$", re.DOTALL)


@dataclass(frozen=True)
class FittedCalibrator:
    """A calibrator with its parameters; call it on logits.

    Attributes:
        spec: what builds ``calibrator``, e.g. ``histogram_binning(bins=20)``.
        calibrator: the map.
        parameters: its fitted tensors.
        num_classes: K of the logits it was fitted for.
    """

    spec: str
    calibrator: Calibrator
    parameters: Parameters
    num_classes: int

    def __call__(self, logits: Tensor, context: CalibrationContext | None = None) -> Tensor:
        """Return calibrated log-probabilities ``(N, K)`` float64 of ``logits (N, K)``."""
        self._check(logits)
        return self.calibrator.apply(logits, self.parameters, context=context)

    def predictions(self, logits: Tensor, context: CalibrationContext | None = None) -> Tensor:
        """Return the class to report, ``(N,)`` int64."""
        self._check(logits)
        return self.calibrator.predictions(logits, self.parameters, context=context)

    def confidence(self, logits: Tensor, context: CalibrationContext | None = None) -> Tensor:
        """Return the calibrated probability of ``predictions``, ``(N,)`` float64."""
        self._check(logits)
        return self.calibrator.confidence(logits, self.parameters, context=context)

    def _check(self, logits: Tensor) -> None:
        if logits.shape[-1:] != (self.num_classes,):
            raise ValueError(
                f"logits: expected shape (N, {self.num_classes}), found {tuple(logits.shape)}"
            )


def build_calibrator(spec: str) -> Calibrator:
    """Return the calibrator of this package that ``spec`` names, e.g. ``temperature``.

    Args:
        spec: ``name`` or ``name(argument=literal, ...)``; the name is that of its file, hyphens
            read as underscores.

    Raises:
        ValueError: not such a string, no such file, or an argument it does not take.
    """
    match = _SPEC.match(spec)
    try:
        call = ast.parse(f"f{match['call'] or '()'}", mode="eval").body if match else None
        if match is None or not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("not one call")
        values = [ast.literal_eval(value) for value in call.args]
        named = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        found = spec if len(spec) <= _SHOWN else f"{spec[:_SHOWN]}..."
        raise ValueError(f"calibrator: expected name(argument=literal), found {found!r}") from error
    name = match["name"].replace("-", "_")
    names = sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py"))
    known = [name for name in names if name not in ("base", "files")]
    if name not in known:
        raise ValueError(f"calibrator: expected one of {', '.join(known)}, found {name!r}")
    module = importlib.import_module(f"fl2ora.calibration.calibrators.{name}")
    build: Callable[..., Calibrator] = getattr(module, name.title().replace("_", ""))
    try:
        inspect.signature(build).bind(*values, **named)
    except TypeError as error:
        takes = inspect.signature(build)
        raise ValueError(f"calibrator {spec!r}: {error}; it takes {takes}") from error
    return build(*values, **named)


def save_calibrator(
    folder: Path | str,
    spec: str,
    parameters: Parameters,
    num_classes: int,
    build: Callable[[str], Calibrator] = build_calibrator,
) -> None:
    """Write a fitted calibrator into ``folder``, which is made if need be.

    Args:
        folder: where to.
        spec: what builds the calibrator.
        parameters: its fitted tensors.
        num_classes: K of the logits it was fitted for.
        build: turns ``spec`` into the calibrator, for one from outside this package.

    Raises:
        ValueError: ``parameters`` do not belong to that calibrator.
    """
    build(spec).check(parameters, num_classes)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    numbers = {k: v.detach().cpu().double().contiguous().clone() for k, v in parameters.items()}
    save_file(numbers, path / NUMBERS)
    description = {**FORMAT, "spec": spec, "num_classes": num_classes}
    (path / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_calibrator(
    folder: Path | str, build: Callable[[str], Calibrator] = build_calibrator
) -> FittedCalibrator:
    """Read what ``save_calibrator`` wrote.

    Args:
        folder: where from.
        build: turns the stored spec into the calibrator. The default builds calibrators of this
            package only, so that a file from elsewhere cannot import code.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: one of them is damaged, or they do not fit each other; names file and key.
    """
    path = Path(folder)
    spec, num_classes = _description(path / DESCRIPTION)
    numbers = path / NUMBERS
    if not numbers.is_file():
        raise FileNotFoundError(f"{numbers}: expected the calibrator's tensors, found no file")
    try:
        parameters = load_file(numbers)
    except SafetensorError as error:
        raise ValueError(f"{numbers}: expected a safetensors file: {error}") from error
    calibrator = build(spec)
    wrong = [name for name, value in parameters.items() if value.dtype != torch.float64]
    if wrong:
        raise ValueError(f"{numbers}: parameter {wrong[0]!r}: expected float64")
    try:
        calibrator.check(parameters, num_classes)
    except ValueError as error:
        raise ValueError(f"{numbers}: {error}") from error
    return FittedCalibrator(spec, calibrator, parameters, num_classes)


def _description(path: Path) -> tuple[str, int]:
    """Return spec and number of classes from the JSON file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the calibrator's description, found no file")
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(found).__name__}")
    for key, wanted in FORMAT.items():
        if found.get(key) != wanted:
            raise ValueError(f"{path}: {key}: expected {wanted!r}, found {found.get(key)!r}")
    spec, num_classes = found.get("spec"), found.get("num_classes")
    if not isinstance(spec, str):
        raise ValueError(f"{path}: spec: expected a string, found {spec!r}")
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise ValueError(f"{path}: num_classes: expected a whole number, found {num_classes!r}")
    return spec, num_classes
