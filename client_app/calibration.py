"""One client's part in fitting a post-hoc calibrator: sums over its calibration images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from calibration.calibrators.base import CalibrationContext, Calibrator, FitState, Parameters, Sums


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
