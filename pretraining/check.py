"""Zero-shot accuracy and calibration of the embedded CLIP, domain by domain."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fl2ora.calibration.metrics.binned import accuracy_of, confidence_of, ece_of
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.datasets.shapes import HELD_BACK_STYLES, SEEN_STYLES, Shapes


@dataclass(frozen=True)
class ZeroShot:
    """How a model does on one test split without any tuning.

    Attributes:
        domain: which images.
        accuracy: share of right predictions.
        confidence: mean of the largest probability.
        ece: expected calibration error, 15 right-closed bins of equal width.
    """

    domain: str
    accuracy: float
    confidence: float
    ece: float


@torch.no_grad()
def zero_shot(clip: Clip, dataset: Dataset, domain: str, batch_size: int = 500) -> ZeroShot:
    """Measure zero-shot predictions on a dataset's test split.

    Args:
        clip: the model to measure; it is frozen by this.
        dataset: where the images, the class names and the templates come from.
        domain: what to call the images.
        batch_size: images encoded at once.
    """
    test = dataset.split("test")
    classifier = ClipClassifier(clip, dataset.class_names, dataset.templates)
    classes = classifier.encode_classes()
    stats = CalibrationStats.zero()
    for start in range(0, len(test), batch_size):
        rows = slice(start, start + batch_size)
        features = classifier.encode_images(clip.preprocessing.evaluation(test.images[rows]))
        logits = classifier.logits(features, classes)
        stats = stats + CalibrationStats.from_logits(logits, test.labels[rows])
    return ZeroShot(domain, accuracy_of(stats), confidence_of(stats), ece_of(stats))


def zero_shot_table(
    clip: Clip, clothes: Dataset | None = None, images: int = 2000
) -> list[ZeroShot]:
    """Measure every style of the image world and, if given, Fashion-MNIST.

    Args:
        clip: the model to measure.
        clothes: Fashion-MNIST, or None to leave it out.
        images: test images for each style.
    """
    rows = [
        zero_shot(clip, Shapes(styles=style, test=images), style)
        for style in (*SEEN_STYLES, *HELD_BACK_STYLES)
    ]
    if clothes is not None:
        rows.append(zero_shot(clip, clothes, "Fashion-MNIST"))
    return rows


def markdown_table(rows: list[ZeroShot]) -> str:
    """Return the rows as a Markdown table, in percent."""
    lines = [
        "| domain | pre-trained on | accuracy | confidence | ECE |",
        "|---|---|---:|---:|---:|",
    ]
    for row in rows:
        seen = "no" if row.domain in HELD_BACK_STYLES else "yes"
        lines.append(
            f"| {row.domain} | {seen} | {row.accuracy:.1%} | {row.confidence:.1%} | {row.ece:.1%} |"
        )
    return "\n".join(lines)
