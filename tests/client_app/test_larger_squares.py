"""Random crops come from the larger squares of a store, everything else from its images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.batches import draw_batches
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.prediction import predict
from fl2ora.clip_tuning.prefix.features import PLAIN, Views, prefix_features
from fl2ora.clip_tuning.preprocessing import Augmentation
from fl2ora.federated_data.images import ImageRows, LabelledImages, Pool
from pictures import save_tree
from runs import events, run_small

NAMES = ("a", "b")
BLACK, WHITE = (
    torch.full((6, 3, side, side), value).byte() for side, value in ((32, 0), (64, 255))
)
ROWS = ImageRows(Pool(BLACK, WHITE, torch.tensor([[50, 90]] * 6)), torch.tensor([4, 0, 2]))
DATA = LabelledImages(ROWS, torch.tensor([0, 1, 0]), torch.zeros(3, dtype=torch.int64))


def classifier() -> ClipClassifier:
    return build_classifier("embedded", "coop(length=2)", NAMES, ("a {}",), 0)


def seen_by_training(augmentation: Augmentation) -> Tensor:
    plan = TrainingPlan(
        CrossEntropy(),
        batch_size=2,
        learning_rate=0.1,
        client="c",
        seed=1,
        augmentation=augmentation,
    )
    batches = draw_batches(classifier(), DATA, plan, None)
    return torch.cat([batch.pixels for batch in batches])


def test_a_batch_of_crops_is_of_the_larger_squares() -> None:
    model = classifier()
    black = model.preprocessing.evaluation(BLACK[:3])
    white = model.preprocessing.evaluation(WHITE[:3, :, :32, :32])
    torch.testing.assert_close(seen_by_training("crop_flip"), white, rtol=0, atol=1e-5)
    for kind in ("none", "flip"):
        torch.testing.assert_close(seen_by_training(kind), black, rtol=0, atol=1e-5)


def test_kept_views_of_crops_are_of_the_larger_squares() -> None:
    model = classifier()
    small, large = ImageRows(Pool(BLACK), ROWS.numbers), ImageRows(Pool(WHITE), ROWS.numbers)
    views = Views("crop_flip", 2, seed=3)
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(
        prefix_features(model, ROWS, 2, views), prefix_features(model, large, 2, views), **close
    )
    for kept in (PLAIN, Views("flip", 2, seed=3)):
        torch.testing.assert_close(
            prefix_features(model, ROWS, 2, kept), prefix_features(model, small, 2, kept), **close
        )
    torch.testing.assert_close(predict(model, ROWS), predict(model, BLACK[:3]), **close)


def test_a_run_on_a_folder_of_images_with_crops(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "photos", "circle", "square", count=30)
    (root / "circle" / "0.png").write_bytes(b"no image")
    folder = run_small(
        tmp_path,
        dataset=f"folder(path={str(root)!r}, on_bad_image='skip')",
        augmentation="crop_flip",
        callbacks="none",
    )
    (data,) = events(folder, "data")
    assert any("of " in note and "cannot be decoded" in note for note in data["notes"])
    assert data["train"] + sum(data["parts"].values()) == 59
