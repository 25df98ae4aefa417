"""Calibration statistics of calibrated predictions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fl2ora.calibration.calibrators.base import CalibrationContext, Calibrator
from fl2ora.calibration.predictions import Block
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summation import sums_of


def calibrated_stats(
    calibrator: Calibrator,
    parameters: Mapping[str, Tensor],
    logits: Tensor,
    labels: Tensor,
    spec: StatsSpec,
    context: CalibrationContext | None = None,
) -> CalibrationStats:
    """Return the sums over calibrated predictions of ``logits (N, K)``; N may be 0.

    The confidence is that of the class the calibrator reports, which for maps of the top confidence
    alone need not be the class with the highest calibrated probability.
    """
    if not len(logits):
        return CalibrationStats.zero(spec)
    given = dict(parameters)
    log_p = calibrator.apply(logits, given, context=context)
    labels = labels.to(torch.int64)
    block = Block(
        probabilities=log_p.exp(),
        labels=labels,
        predicted=calibrator.predictions(logits, given, context=context),
        confidence=calibrator.confidence(logits, given, context=context),
        nll=-log_p.gather(1, labels[:, None]).squeeze(1),
    )
    return CalibrationStats(spec, **sums_of([block], spec))
