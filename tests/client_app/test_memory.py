"""Options that save memory: they do, and what is trained stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning import low_rank, quick_gelu, recomputation
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.plugins import available
from fl2ora.federated_data.images import LabelledImages
from fl2ora.strategies.client_rule import ClientRule, LocalStart
from runs import events, final_adapter, run_small

Maker = Callable[..., LabelledImages]
# peft's blocks, our own loops through either tower, all weights, and two backward passes a step.
METHODS = [
    "lora(dropout=0.5)",
    "lora_residual(dropout=0.5)",
    "coop(length=4)",
    "prograd(length=4)",
    "cocoop(length=4)",
    "vpt",
    "maple",
    "prompt_src",
    "full",
    "logit_scale('lora')",
]
# So many that their tokens outweigh copies of the weights.
NAMES = (
    "cat", "ankle_boot", "dog", "horse", "pullover", "bird", "ship", "truck", "frog", "sandal",
    "whale", "zebra",
)  # fmt: skip
USED = {method.partition("(")[0] for method in METHODS}
OTHERS = sorted({*available(TuningMethod)} - USED - {"zero_shot"})


def _build(folder: Path, method: str, recompute: bool = False) -> ClipClassifier:
    return build_classifier(
        str(folder),
        method,
        NAMES,
        ("a photo of a {}.",),
        seed=0,
        gradient_checkpointing=recompute,
    )


def _train(
    classifier: ClipClassifier,
    data: LabelledImages,
    precision: str = "float32",
    rule: ClientRule | None = None,
) -> Adapter:
    plan = TrainingPlan(
        CrossEntropy(),
        rule or ClientRule(),
        batch_size=8,
        learning_rate=0.1,
        precision=precision,
        client="c",
        seed=5,
    )
    return local_train(classifier, data, plan)[0].adapter


def _saved_bytes(classifier: ClipClassifier, data: LabelledImages, precision: str) -> int:
    """Return the bytes that forward passes keep for backward, each storage once, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in classifier.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        _train(classifier, data, precision)
    return sum(saved.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", [*METHODS, *OTHERS])
def test_recomputing_gives_the_same_update(
    tiny_clip_folder: Path, random_images: Maker, method: str, precision: str
) -> None:
    data = random_images(20)  # three steps
    start = _build(tiny_clip_folder, method).export()
    plain = _train(_build(tiny_clip_folder, method), data, precision)
    recomputed = _train(_build(tiny_clip_folder, method, True), data, precision)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
    assert any(not torch.equal(plain[name], start[name]) for name in plain)


@pytest.mark.parametrize("method", ["lora(dropout=0.5)", "full"])
def test_recomputing_gives_the_same_update_if_layers_are_computed_faster(
    tiny_clip_folder: Path, random_images: Maker, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (low_rank, quick_gelu):
        monkeypatch.setattr(module, "_WORTH", 0)
    data = random_images(20)
    plain, recomputed = (
        _train(_build(tiny_clip_folder, method, flag), data) for flag in (False, True)
    )
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_recomputing_keeps_less(
    tiny_clip_folder: Path, random_images: Maker, method: str, precision: str
) -> None:
    data = random_images(8)  # one step
    plain, recomputed = (
        _saved_bytes(_build(tiny_clip_folder, method, flag), data, precision)
        for flag in (False, True)
    )
    assert 0 < recomputed < 0.6 * plain


def test_recomputing_is_for_training_alone(
    tiny_clip_folder: Path, random_images: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _count_checkpoints(monkeypatch)
    classifier = _build(tiny_clip_folder, "lora", True)
    pixels = classifier.preprocessing.evaluation(random_images(4).images[:])
    expected = _build(tiny_clip_folder, "lora")(pixels)
    assert torch.equal(classifier(pixels), expected)
    assert not calls
    _train(classifier, random_images(4))
    assert len(calls) == 4  # blocks of two towers


def test_gradient_checkpointing_gives_an_equal_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _count_checkpoints(monkeypatch)
    plain = final_adapter(run_small(tmp_path / "plain"))
    assert not calls
    folder = run_small(tmp_path / "recomputed", gradient_checkpointing=True)
    recomputed = final_adapter(folder)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
    steps = sum(event["steps"] for event in events(folder, "client"))
    assert len(calls) == 7 * steps  # 4 blocks for images, 3 for texts; none in evaluation


class Watching(ClientRule):
    """Notes the types of parameters and gradients before and after each step's backward."""

    def __init__(self) -> None:
        self.seen: set[torch.dtype] = set()

    def begin(self, start: LocalStart) -> None:
        self.tuned = start.tuned

    def after_backward(self) -> None:
        for parameter in self.tuned.values():
            assert parameter.grad is not None
            self.seen |= {parameter.dtype, parameter.grad.dtype}


@pytest.mark.parametrize("method", ["lora", "coop(length=4)", "maple", "full"])
def test_half_precision_leaves_what_is_tuned_in_float32(
    tiny_clip_folder: Path, random_images: Maker, method: str
) -> None:
    rule, data = Watching(), random_images(20)
    classifier = _build(tiny_clip_folder, method)
    adapter = _train(classifier, data, "bfloat16", rule)
    assert rule.seen == {torch.float32}
    assert {p.dtype for p in classifier.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    exact = _train(_build(tiny_clip_folder, method), data)
    assert any(not torch.equal(adapter[name], exact[name]) for name in exact)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_keeps_less(
    tiny_clip_folder: Path, random_images: Maker, method: str
) -> None:
    plain, half = (
        _saved_bytes(_build(tiny_clip_folder, method), random_images(8), precision)
        for precision in ("float32", "bfloat16")
    )
    assert half < 0.9 * plain


def _count_checkpoints(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    calls: list[object] = []

    def counting(function: Callable[..., object], *inputs: object, **options: Any) -> object:
        calls.append(function)
        return checkpoint(function, *inputs, **options)

    monkeypatch.setattr(recomputation, "checkpoint", counting)
    return calls
