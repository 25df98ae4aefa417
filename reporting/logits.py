"""Logits of held-out images kept with a run, so that calibrators can be fitted afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl2ora.calibration.calibrators.base import CalibrationContext
from fl2ora.experiment.errors import UserError, shown
from fl2ora.reporting.sources import SERVER_TEST
from fl2ora.reporting.whole_files import plain_file, whole_file

LOGITS_FILE = "logits.safetensors"
_FEATURES = "features"
_ABOUT = "parts"
_TEST, _CALIBRATION = "test:", "calibration:"  # begin the names of a client's parts
_FIELDS = ("logits", "labels", "zero_shot")
_OTHER_CLASSES = ("text", "zero_shot_text")


@dataclass(frozen=True)
class Scored:
    """Held-out images as the final model and the zero-shot model score them.

    Attributes:
        logits: ``(N, K)`` of the final model.
        labels: ``(N,)`` int64.
        zero_shot: ``(N, K)`` of the zero-shot model.
        text: ``(K, D)`` unit text features of the final model where the classes are not those tuned
            on, else None.
        zero_shot_text: ``(K, D)`` of the zero-shot model, likewise.
    """

    logits: Tensor
    labels: Tensor
    zero_shot: Tensor
    text: Tensor | None = None
    zero_shot_text: Tensor | None = None

    @property
    def of_other_classes(self) -> bool:
        """Whether the classes are not those tuned on."""
        return self.text is not None

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.logits.shape[1])


@dataclass(frozen=True)
class SavedLogits:
    """What calibrators need of a finished run.

    Attributes:
        central: the server's held-out parts by their source; none where it has no data.
        test: each client's test images by client key; empty where they lie on the nodes.
        calibration: each client's calibration images by client key; likewise.
        text_features: ``(K, D)`` unit text features of the final model for the classes tuned on.
        zero_shot_text_features: ``(K, D)`` of the zero-shot model.
        means: rows over central parts: ``name``, ``parts`` and ``harmonic`` of each.
    """

    central: Mapping[str, Scored]
    test: Mapping[str, Scored]
    calibration: Mapping[str, Scored]
    text_features: Tensor
    zero_shot_text_features: Tensor
    means: tuple[Mapping[str, Any], ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes tuned on."""
        return len(self.text_features)

    def context(self, part: Scored) -> CalibrationContext:
        """Return what calibrators may want beside a part's logits."""
        base = self.text_features, self.zero_shot_text_features
        return CalibrationContext(
            part.zero_shot,
            base[0] if part.text is None else part.text,
            base[1] if part.zero_shot_text is None else part.zero_shot_text,
            *base,
        )

    def save(self, folder: Path) -> None:
        """Write ``logits.safetensors``."""
        parts = dict(self.central)
        parts |= {f"{_TEST}{client}": part for client, part in self.test.items()}
        parts |= {f"{_CALIBRATION}{client}": part for client, part in self.calibration.items()}
        tensors = {
            f"{name}/{field}": getattr(part, field)
            for name, part in parts.items()
            for field in (*_FIELDS, *(_OTHER_CLASSES if part.of_other_classes else ()))
        }
        tensors[f"{_FEATURES}/text"] = self.text_features
        tensors[f"{_FEATURES}/zero_shot"] = self.zero_shot_text_features
        whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        about = {"order": list(self.central), "means": list(self.means)}
        with whole_file(folder / LOGITS_FILE) as path:
            # One entry: of several, safetensors writes now this one first, now that one.
            save_file(whole, path, {_ABOUT: json.dumps(about)})

    @classmethod
    def load(cls, folder: Path) -> SavedLogits:
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        path = folder / LOGITS_FILE
        try:
            tensors = load_file(plain_file(path))
            order, means = _about(path)
            names = sorted({key.rpartition("/")[0] for key in tensors} - {_FEATURES})
            first = [name for name in order if name in names]
            parts = {name: _scored(tensors, name) for name in dict.fromkeys([*first, *names])}
            features = (tensors[f"{_FEATURES}/text"], tensors[f"{_FEATURES}/zero_shot"])
            _check(parts, features)
            return cls(
                {name: part for name, part in parts.items() if name.startswith(SERVER_TEST)},
                _of_clients(parts, _TEST),
                _of_clients(parts, _CALIBRATION),
                *features,
                means,
            )
        except (OSError, SafetensorError, UserError) as error:
            raise UserError(f"{path}: expected the logits of a finished run: {error}") from None
        except KeyError as error:
            raise UserError(
                f"{path}: expected the logits of a finished run, {error} is missing"
            ) from None


def _about(path: Path) -> tuple[list[str], tuple[Mapping[str, Any], ...]]:
    """Return the order of the central parts, and the means over them.

    Raises:
        UserError: what is noted is of another form.
    """
    with safe_open(path, framework="pt") as file:
        about = file.metadata() or {}
    try:
        said = json.loads(about.get(_ABOUT, "{}"))
        order, means = said.get("order", []), said.get("means", [])
        forms = {"name": str, "parts": list, "harmonic": bool}
        fit = all({k: type(v) for k, v in mean.items()} == forms for mean in means)
    except (ValueError, RecursionError, AttributeError, TypeError):
        fit = False
    if not fit or not isinstance(order, list):
        raise UserError(f"what is noted of its parts cannot be read: {shown(about)}")
    return order, tuple(means)


def _scored(tensors: Mapping[str, Tensor], name: str) -> Scored:
    """Return one part; a KeyError names the tensor that is missing."""
    others = [f"{name}/{field}" for field in _OTHER_CLASSES if f"{name}/{field}" in tensors]
    fields = (*_FIELDS, *(_OTHER_CLASSES if others else ()))
    return Scored(*(tensors[f"{name}/{field}"] for field in fields))


def _check(parts: Mapping[str, Scored], features: tuple[Tensor, Tensor]) -> None:
    """Refuse tensors that do not fit each other.

    Raises:
        UserError: names the tensor, what was expected and what was found.
    """
    tuned_on = _check_features(_FEATURES, features)
    for name, part in parts.items():
        rows = len(part.labels) if part.labels.ndim == 1 else 0
        classes = tuned_on
        if part.text is not None and part.zero_shot_text is not None:
            classes = _check_features(name, (part.text, part.zero_shot_text))
        central = name.startswith(SERVER_TEST)
        if central and (part.logits.ndim != 2 or not len(part.logits)):
            found = tuple(part.logits.shape)
            raise UserError(f"{name}/logits: expected (N, K), N >= 1, K >= 2, found {found}")
        for field in ("logits", "zero_shot"):
            _check_floats(f"{name}/{field}", getattr(part, field), (rows, classes))
        whole = part.labels.ndim == 1 and part.labels.dtype == torch.int64
        if not whole or (rows and not 0 <= part.labels.min() <= part.labels.max() < classes):
            raise UserError(f"{name}/labels: expected (N,) int64, each from 0 to {classes - 1}")


def _check_features(name: str, features: tuple[Tensor, Tensor]) -> int:
    """Check the text features of the two models and return the number of classes."""
    rows, size = features[0].shape if features[0].ndim == 2 else (0, 0)
    if rows < 2:
        found = tuple(features[0].shape)
        raise UserError(f"{name}/text: expected (K, D), K >= 2, found {found}")
    for field, tensor in zip(("text", "zero_shot"), features, strict=True):
        _check_floats(f"{name}/{field}", tensor, (rows, size))
    return rows


def _check_floats(name: str, tensor: Tensor, shape: tuple[int, int]) -> None:
    if tuple(tensor.shape) != shape or not tensor.is_floating_point() or tensor.isnan().any():
        kind = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        kind += " with NaN" if tensor.is_floating_point() and tensor.isnan().any() else ""
        raise UserError(f"{name}: expected floats of shape {shape}, found {kind}")


def _of_clients(parts: Mapping[str, Scored], prefix: str) -> dict[str, Scored]:
    names = sorted(name for name in parts if name.startswith(prefix))
    return {name.removeprefix(prefix): parts[name] for name in names}
