"""The process's classifiers: built once, the zero-shot one sharing nothing with the tuned one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fl2ora.clip_tuning import build as building
from fl2ora.clip_tuning.build import tuned_classifier, zero_shot_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip, load_clip
from method_laws import NAMES, TEMPLATES, changed, logits_of

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _empty_caches() -> Iterator[None]:
    yield
    building._tuned.cache_clear()
    building._zero_shot.cache_clear()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the models that were loaded."""
    building._tuned.cache_clear()
    building._zero_shot.cache_clear()
    names: list[str] = []

    def counting(name: str) -> Clip:
        names.append(name)
        return load_clip(name)

    monkeypatch.setattr(building, "load_clip", counting)
    return names


def tuned(method: str, *, fresh: bool = False, seed: int = 0) -> ClipClassifier:
    return tuned_classifier("embedded", method, NAMES, TEMPLATES, seed, CPU, fresh=fresh)


def zero_shot() -> ClipClassifier:
    return zero_shot_classifier("embedded", list(NAMES), TEMPLATES, CPU)


def test_clip_is_loaded_once_for_each_classifier(loads: list[str]) -> None:
    first, untuned = tuned("lora", fresh=True), zero_shot()
    for _ in range(3):
        assert tuned("lora") is first
        assert zero_shot() is untuned
    assert loads == ["embedded", "embedded"]
    assert tuned("lora", seed=1) is not first
    assert zero_shot() is untuned
    assert len(loads) == 3


def test_a_new_run_starts_at_the_initial_adapter(loads: list[str]) -> None:
    """Also if an earlier run in the same process has trained the shared classifier."""
    start = tuned("lora", fresh=True).export()
    changed(tuned("lora"))
    again = tuned("lora", fresh=True).export()
    assert again.keys() == start.keys()
    assert all(torch.equal(again[name], start[name]) for name in start)
    tuned("lora", fresh=True)
    assert len(loads) == 2


def test_a_new_run_starts_without_an_earlier_client_s_personal_part() -> None:
    with tuned("fedotp").as_client({}):
        pass
    assert tuned("fedotp").untouched is False
    assert tuned("fedotp", fresh=True).untouched


def _storages(classifier: ClipClassifier) -> set[int]:
    tensors: list[Tensor] = [*classifier.parameters(), *classifier.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


@pytest.mark.parametrize(
    "method", ["lora", "full", "logit_scale", "layer_norm", "coop", "fedotp", "tip_adapter"]
)
def test_tuning_does_not_change_the_zero_shot_classifier(method: str) -> None:
    classifier, untuned = tuned(method), zero_shot()
    assert not _storages(classifier) & _storages(untuned)
    before = logits_of(untuned)
    changed(classifier)
    with classifier.as_client({name: t + 1 for name, t in classifier.export_personal().items()}):
        moved = logits_of(classifier)
    assert torch.equal(logits_of(untuned), before)
    assert not torch.allclose(moved, before, atol=1e-2)


@pytest.mark.parametrize("method", ["fedotp", "clip_adapter", "coop"])
def test_zero_shot_is_not_the_initial_tuned_model(method: str) -> None:
    """These methods do not start there: measuring them in round 0 would be a different thing."""
    assert not torch.allclose(logits_of(tuned(method)), logits_of(zero_shot()), atol=1e-2)
    plain = ClipClassifier(load_clip("embedded"), NAMES, TEMPLATES).eval()
    assert torch.equal(logits_of(zero_shot()), logits_of(plain))
