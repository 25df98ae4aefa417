"""What two shortcuts would save that fl2ora does not take: merged LoRA, and torch.compile.

    python -m benchmarks.shortcuts merged
    python -m benchmarks.shortcuts compiled

ViT-B/16 shapes with random weights and the embedded model, ten classes, one thread, LoRA on q, k
and v of both towers. ``merged`` evaluates with ``W + s B A`` in place of ``W`` and the factors;
``compiled`` takes a training step and an evaluation through ``torch.compile`` in its default mode.
Seconds are of the processor; each way is measured in turn, and medians are printed.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
import typer
from torch import nn

from benchmarks.tuning_cost import NAMES, PLAN, TEMPLATES, random_images, vit_b_16
from fl2ora.client_app.training import local_train
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip, load_clip
from fl2ora.clip_tuning.methods.lora import LoRA
from fl2ora.clip_tuning.prediction import predict
from fl2ora.federated_data.images import LabelledImages

cli = typer.Typer(add_completion=False)
Repeats = Annotated[int, typer.Option(help="Of which the median is taken.")]
MODELS = {"ViT-B/16": (vit_b_16, 32), "embedded": (lambda: load_clip("embedded"), 256)}


@cli.command()
def merged(repeats: Repeats = 5) -> None:
    """Print what an evaluation takes with factors and with merged weights."""
    torch.set_num_threads(1)
    for name, (made, size) in MODELS.items():
        classifier, images = _tuned(made()), _images(made(), size)

        def evaluated(classifier: ClipClassifier = classifier, size: int = size) -> torch.Tensor:
            return predict(classifier, images.images, size)  # noqa: B023

        def shortcut(classifier: ClipClassifier = classifier) -> torch.Tensor:
            with _merged(classifier):
                return evaluated()

        gap = (evaluated() - shortcut()).abs().max()
        plain, less = _medians((evaluated, shortcut), repeats)
        print(
            f"{name}, {size} images: {plain:.3f} s with factors, {less:.3f} s merged, "
            f"{1 - less / plain:.1%} less; logits differ by {gap:.1e}",
            flush=True,
        )


@cli.command()
def compiled(repeats: Repeats = 3) -> None:
    """Print what a training step and an evaluation take, as they are and compiled."""
    torch.set_num_threads(1)
    torch._dynamo.config.recompile_limit = 64  # every block of both towers, in all its uses
    for name, (made, size) in MODELS.items():
        plain, fast = _tuned(made()), _tuned(made())
        images = _images(made(), 8 if size == 32 else 32)
        for tower in ("vision_model", "text_model"):
            for layer in fast.clip.get_submodule(f"base_model.model.{tower}.encoder").layers:
                layer.compile()
        for what, work in (("a training step", _step), ("an evaluation", _evaluation)):
            started = time.process_time() + _children()
            work(fast, images)
            first = time.process_time() + _children() - started
            slow, quick = _medians(
                (lambda: work(plain, images), lambda: work(fast, images)),  # noqa: B023
                repeats,
            )
            print(
                f"{name}, {what} of {len(images)} images: {slow:.3f} s, compiled {quick:.3f} s, "
                f"{slow / quick:.2f} times as fast; {first:.1f} s for the first",
                flush=True,
            )


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _step(classifier: ClipClassifier, images: LabelledImages) -> None:
    local_train(classifier, images, PLAN)


def _evaluation(classifier: ClipClassifier, images: LabelledImages) -> None:
    predict(classifier, images.images, len(images))


def _tuned(clip: Clip) -> ClipClassifier:
    classifier = LoRA().attach(clip, NAMES, TEMPLATES)
    classifier.restore({n: 0.02 * torch.randn_like(p) for n, p in classifier.export().items()})
    return classifier


def _images(clip: Clip, count: int) -> LabelledImages:
    images = random_images(count)
    side = clip.preprocessing.evaluation(images.images[:1]).shape[-1]
    return LabelledImages(images.images[:, :, :side, :side], images.labels, images.domains)


@contextmanager
def _merged(classifier: ClipClassifier) -> Iterator[None]:
    """Put ``W + s B A`` into the layers, and back the very tensors that were there."""
    found = []
    for parent in classifier.clip.modules():
        for name, layer in parent.named_children():
            if hasattr(layer, "lora_A"):
                found.append((parent, name, layer))
    for parent, name, layer in found:
        base = layer.base_layer
        plain = nn.Linear(base.in_features, base.out_features, device=base.weight.device)
        with torch.no_grad():
            weight = base.weight + layer.get_delta_weight("default")
        plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), base.bias
        setattr(parent, name, plain)
    try:
        yield
    finally:
        for parent, name, layer in found:
            setattr(parent, name, layer)


def _medians(ways: tuple[Callable[[], object], ...], repeats: int) -> list[float]:
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, taken in zip(ways, times, strict=True):
            started = time.process_time()
            way()
            taken.append(time.process_time() - started)
    return [statistics.median(taken) for taken in times]


if __name__ == "__main__":
    cli()
