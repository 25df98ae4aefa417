"""``classifier.json``: which model, method and classes a saved adapter belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.blame import blaming
from fl2ora.experiment.errors import UserError, shown
from fl2ora.experiment.plugins import load
from fl2ora.experiment.spec import parse_spec

FILE = "classifier.json"
_FORMAT = {"format": "fl2ora classifier", "version": 1}


@dataclass(frozen=True)
class SavedClassifier:
    """What it takes, beside the adapter, to have a tuned classifier again.

    Attributes:
        model: see ``load_clip``.
        method: spec of the tuning method.
        seed: of the run; what a method draws and does not train follows from it.
        class_names: K names in the order of the labels.
        templates: of their prompts.
    """

    model: str
    method: str
    seed: int
    class_names: tuple[str, ...]
    templates: tuple[str, ...]

    def save(self, folder: Path) -> None:
        """Write ``classifier.json`` into a folder that exists."""
        text = json.dumps({**_FORMAT, **asdict(self)}, indent=2, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> SavedClassifier:
        """Read what ``save`` wrote.

        Raises:
            UserError: there is no such file, or it is damaged; names the key.
        """
        path = folder / FILE
        if path.exists() and not path.is_file():  # nobody may ever write to a pipe
            raise UserError(f"{path}: expected a file")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{folder}: expected an adapter with {FILE}, found none") from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: expected JSON: {error}") from None
        if not isinstance(found, dict):
            raise UserError(f"{path}: expected a JSON object, found {shown(found)}")
        for key, wanted in _FORMAT.items():
            if found.get(key) != wanted:
                raise UserError(
                    f"{path}: {key}: expected {wanted!r}, found {shown(found.get(key))}"
                )
        templates = _texts(path, found, "templates", 1)
        if any(template.count("{}") != 1 for template in templates):
            raise UserError(
                f"{path}: templates: expected exactly one {{}} in each, found {shown(templates)}"
            )
        return cls(
            _text(path, found, "model"),
            _text(path, found, "method"),
            _whole(path, found, "seed"),
            _texts(path, found, "class_names", 2),
            templates,
        )

    def build(self, folder: Path, device: torch.device) -> ClipClassifier:
        """Return the classifier with the adapter in ``folder``.

        Raises:
            UserError: the model or the method cannot be had, or the adapter is missing, damaged or
                does not fit them.
        """
        method = load(self.method, TuningMethod)
        classifier = build_classifier(
            self.model, self.method, self.class_names, self.templates, self.seed
        ).to(device)
        with blaming(method):
            try:
                classifier.restore(method.load(folder))
            except (OSError, ValueError) as error:
                raise UserError(f"{folder}: {error}") from error
        return classifier

    @property
    def is_ours(self) -> bool:
        """Whether the method is one of this package's."""
        return parse_spec(self.method).module is None


def _text(path: Path, found: Mapping[str, Any], key: str) -> str:
    if not isinstance(value := found.get(key), str) or not value:
        raise UserError(f"{path}: {key}: expected a text, found {shown(value)}")
    return value


def _whole(path: Path, found: Mapping[str, Any], key: str) -> int:
    if not isinstance(value := found.get(key), int) or isinstance(value, bool):
        raise UserError(f"{path}: {key}: expected a whole number, found {shown(value)}")
    return value


def _texts(path: Path, found: Mapping[str, Any], key: str, least: int) -> tuple[str, ...]:
    value = found.get(key)
    fits = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
    if not isinstance(value, list) or not fits or len(set(value)) != len(value):
        raise UserError(f"{path}: {key}: expected texts that differ, found {shown(value)}")
    if len(value) < least:
        raise UserError(f"{path}: {key}: expected at least {least}, found {len(value)}")
    return tuple(value)
