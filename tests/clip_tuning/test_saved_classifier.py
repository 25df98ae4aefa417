"""An adapter and what it belongs to give the classifier back, for every method."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.contract_probe import logits_of, moved
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.saved_classifier import SavedClassifier
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from method_specs import SPECS

NAMES, TEMPLATES = ("cat", "großer Hund", "a d'og"), ("a photo of a {}.", "a {}.")
CPU = torch.device("cpu")


def save(folder: Path, model: str, method: str, templates: tuple[str, ...]) -> torch.Tensor:
    classifier = moved(build_classifier(model, method, NAMES, templates, 5))
    load(method, TuningMethod).save(classifier, folder)
    SavedClassifier(model, method, 5, NAMES, templates).save(folder)
    return logits_of(classifier)


@pytest.mark.parametrize("method", [specs[-1] for specs in SPECS.values()])
def test_it_scores_as_before(tiny_clip_folder: Path, tmp_path: Path, method: str) -> None:
    templates = TEMPLATES[:1]
    expected = save(tmp_path / "adapter", str(tiny_clip_folder), method, templates)
    saved = SavedClassifier.load(tmp_path / "adapter")
    assert saved == SavedClassifier(str(tiny_clip_folder), method, 5, NAMES, templates)
    found = saved.build(tmp_path / "adapter", CPU)
    assert found.class_names == NAMES
    assert torch.equal(logits_of(found), expected)


class Noisy(ClipClassifier):
    """Adds what it drew once, which is neither trained nor saved, to all logits."""

    noise: torch.Tensor

    def __init__(self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]) -> None:
        super().__init__(clip, class_names, templates)
        self.register_buffer("noise", torch.randn(len(class_names)), persistent=False)

    def logits(self, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return super().logits(images, classes) + self.noise


class Drawing(TuningMethod):
    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        return Noisy(clip, class_names, templates)


def test_what_a_method_draws_and_does_not_train_is_drawn_again(
    tiny_clip_folder: Path, tmp_path: Path
) -> None:
    expected = save(tmp_path, str(tiny_clip_folder), "test_saved_classifier:Drawing", TEMPLATES)
    assert torch.equal(logits_of(SavedClassifier.load(tmp_path).build(tmp_path, CPU)), expected)


@pytest.fixture
def adapter(tiny_clip_folder: Path, tmp_path: Path) -> Path:
    save(tmp_path / "adapter", str(tiny_clip_folder), "bitfit", TEMPLATES)
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "another"), ("version", 2), ("model", 3), ("model", ""), ("method", None),
        ("seed", "5"), ("seed", True), ("class_names", "cat"), ("class_names", ["cat"]),
        ("class_names", ["cat", "cat"]), ("class_names", ["cat", 3]), ("templates", []),
        ("templates", ["a photo"]),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_named(adapter: Path, key: str, value: Any) -> None:
    path = adapter / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {key: value}))
    with pytest.raises(UserError, match=rf"classifier\.json: {key}: expected .* found"):
        SavedClassifier.load(adapter)


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff", "3", "[" * 100_000])
def test_a_file_that_is_damaged_is_named(adapter: Path, text: str) -> None:
    (adapter / "classifier.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"classifier\.json"):
        SavedClassifier.load(adapter)


def test_an_adapter_of_another_method_or_none_is_one_message(adapter: Path) -> None:
    path = adapter / "classifier.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"bitfit"', '"layer_norm"'))
    with pytest.raises(UserError, match=r"adapter: .*missing: ") as caught:
        SavedClassifier.load(adapter).build(adapter, CPU)
    assert str(adapter) in str(caught.value)
    (adapter / "adapter.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        SavedClassifier.load(adapter).build(adapter, CPU)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "classifier.json")
    with pytest.raises(UserError, match=r"classifier\.json: expected a file$"):
        SavedClassifier.load(tmp_path)
