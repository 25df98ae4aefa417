"""Frozen work is done once, and changes no figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from calibration.losses.cross_entropy import CrossEntropy
from calibration.losses.mixup import Mixup
from client_app.training import LocalTrainer, TrainingSettings
from clip_tuning.build import build_classifier
from clip_tuning.classifier import ClipClassifier
from clip_tuning.prediction import encode_all, predict
from federated_data.datasets.shapes import Shapes
from reporting.events import read_lines
from runs import final_adapter, run_small

WORLD = Shapes(styles="held-back", train=32, validation=16, test=32)
DATA = WORLD.split("train")
FROZEN = ["prompt(length=2)", "kgcoop(length=2)", "linear_probe", "task_res", "prograd(length=2)"]


def classifier(method: str) -> ClipClassifier:
    return build_classifier("embedded", method, WORLD.class_names, WORLD.templates, 0)


def counting(model: ClipClassifier, name: str) -> list[int]:
    calls: list[int] = []
    original: Callable[..., Tensor] = getattr(model, name)

    def wrapper(*args: Tensor) -> Tensor:
        calls.append(len(args[0]) if args else 0)
        return original(*args)

    setattr(model, name, wrapper)
    return calls


@pytest.mark.parametrize("method", FROZEN)
def test_cached_training_equals_uncached_training(method: str) -> None:
    settings = TrainingSettings(batch_size=8, learning_rate=0.01, epochs=2)
    results = []
    for cached in (True, False):
        model = classifier(method)
        assert model.images_frozen
        frozen = classifier(method)
        trainer = LocalTrainer(
            model,
            settings,
            CrossEntropy(),
            image_table=(lambda m=frozen: encode_all(m, DATA.images)) if cached else None,
        )
        calls = counting(model, "encode_images")
        update, _ = trainer.run(DATA, client="a", seed=1)
        assert len(calls) == (0 if cached else 8)
        results.append(update.adapter)
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "settings", "loss"),
    [
        ("lora", TrainingSettings(), CrossEntropy()),
        ("prompt(length=2)", TrainingSettings(augmentation="flip"), CrossEntropy()),
        ("prompt(length=2)", TrainingSettings(), Mixup()),
    ],
)
def test_nothing_is_cached_where_features_change(
    method: str, settings: TrainingSettings, loss: CrossEntropy | Mixup
) -> None:
    def fail() -> Tensor:
        raise AssertionError("must not be called")

    trainer = LocalTrainer(classifier(method), settings, loss, image_table=fail)
    update, _ = trainer.run(DATA, client="a", seed=1)
    assert update.metrics["steps"] == 1


def test_frozen_classes_are_encoded_once() -> None:
    model = classifier("vpt(length=2)")
    assert model.classes_frozen
    calls = counting(model, "encode_classes")
    trainer = LocalTrainer(model, TrainingSettings(batch_size=8), CrossEntropy())
    trainer.run(DATA, client="a", seed=1)
    trainer.run(DATA, client="a", seed=2)
    assert len(calls) == 1


def test_known_features_predict_the_same() -> None:
    model = classifier("prompt(length=2)")
    images = WORLD.split("test").images
    features = encode_all(model, images, 7)
    torch.testing.assert_close(
        predict(model, images, 7, features), predict(model, images, 7), rtol=0, atol=1e-5
    )


def test_a_whole_run_is_the_same_with_and_without(tmp_path: Path) -> None:
    runs = [
        run_small(tmp_path / str(flag), method="kgcoop(length=2)", cache_features=flag)
        for flag in (True, False)
    ]
    first, second = (final_adapter(folder) for folder in runs)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-5)
    for mine, theirs in zip(*(read_lines(f / "metrics.jsonl") for f in runs), strict=True):
        if mine["source"] == "server-test":
            assert mine["nll"] == pytest.approx(theirs["nll"], abs=1e-4)
