"""Measuring a classifier on a client's held-out images."""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.prediction import predict
from fl2ora.federated_data.images import LabelledImages


def local_evaluate(
    classifier: ClipClassifier,
    data: LabelledImages,
    spec: StatsSpec,
    batch_size: int = 256,
    prefix: Tensor | None = None,
) -> CalibrationStats:
    """Return the calibration sums of ``data``; of no images, the sums of nothing.

    Args:
        classifier: what is measured.
        data: held out.
        spec: sizes of the sums.
        batch_size: images encoded at once.
        prefix: see ``predict``.
    """
    logits = predict(classifier, data.images, batch_size, prefix)
    return CalibrationStats.from_logits(logits, data.labels, spec)
