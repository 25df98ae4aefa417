"""One client's part in fitting and in measuring a post-hoc calibrator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fl2ora.calibration.calibrated import calibrated_stats
from fl2ora.calibration.calibrators._sets import SetCalibrator
from fl2ora.calibration.calibrators.base import (
    CalibrationContext,
    Calibrator,
    FitState,
    Parameters,
    Sums,
)
from fl2ora.calibration.conformal.set_sums import SetSums
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.prediction import predict
from fl2ora.federated_data.images import LabelledImages

TextFeatures = tuple[Tensor, Tensor]


def calibration_sums(
    calibrator: Calibrator,
    parameters: Parameters,
    logits: Tensor,
    labels: Tensor,
    zero_shot_logits: Callable[[], Tensor],
) -> Sums:
    """Return the calibrator's additive sums at ``parameters``; all float64.

    Args:
        calibrator: what is fitted.
        parameters: where the fit stands.
        logits: ``(N, K)`` of the client's calibration images; N may be 0.
        labels: ``(N,)``.
        zero_shot_logits: makes ``(N, K)`` of the frozen model; called only if they are needed.
    """
    context = None
    if "zero_shot_logits" in calibrator.fit_needs:
        context = CalibrationContext(zero_shot_logits=zero_shot_logits())
    state = FitState(parameters, {}, False)
    return calibrator.statistics(logits, labels, state, context=context)


@torch.inference_mode()
def text_features(tuned: ClipClassifier, frozen: ClipClassifier) -> TextFeatures:
    """Return the ``(K, D)`` unit text features of a tuned classifier and of the frozen one."""
    return tuned.pooled_classes(tuned.encode_classes()), frozen.encode_classes()


def evaluate_calibrated(
    calibrator: Calibrator,
    parameters: Parameters,
    classifier: ClipClassifier,
    zero_shot: Callable[[], ClipClassifier],
    data: LabelledImages,
    spec: StatsSpec,
    batch_size: int,
    prefix: Tensor | None = None,
    tuned_on: TextFeatures | None = None,
) -> tuple[CalibrationStats, SetSums | None]:
    """Return the calibration sums of a client's test images after the calibrator.

    And those over their sets, where it answers with such.

    Args:
        calibrator: fitted.
        parameters: its parameters.
        classifier: holding the global adapter.
        zero_shot: makes the frozen classifier; called only if the calibrator reads it.
        data: what is measured; may be empty.
        spec: sizes of the sums.
        batch_size: images encoded at once.
        prefix: see ``predict``.
        tuned_on: text features of the classes tuned on; None: those of ``classifier``.
    """
    context = None
    if calibrator.needs:
        frozen = zero_shot()
        texts = text_features(classifier, frozen)
        zero_shot_logits = predict(frozen, data.images, batch_size)
        context = CalibrationContext.of_tuned_classes(zero_shot_logits, *texts)
        if tuned_on is not None:
            context = CalibrationContext(zero_shot_logits, *texts, *tuned_on)
    logits = predict(classifier, data.images, batch_size, prefix)
    stats = calibrated_stats(calibrator, parameters, logits, data.labels, spec, context)
    if not isinstance(calibrator, SetCalibrator):
        return stats, None
    return stats, SetSums.of(calibrator.sets(logits, parameters), data.labels)
