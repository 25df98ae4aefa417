"""Calibrators without anything to fit."""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.calibrators._tensors import check_classes, scalar
from fl2ora.calibration.calibrators.base import CalibrationContext, Calibrator, FitState, Sums


class TrainingFree(Calibrator):
    """A map that is finished before the first step; a subclass says how it applies."""

    max_steps: int = 0

    def start(self, num_classes: int) -> FitState:
        """Return the finished state without parameters."""
        check_classes(num_classes)
        return FitState({}, {}, True)

    def statistics(
        self,
        logits: Tensor,
        labels: Tensor,
        state: FitState,
        *,
        context: CalibrationContext | None = None,
    ) -> Sums:
        """Return the count alone; there is nothing to fit."""
        return {"count": scalar(len(logits))}

    def update(self, state: FitState, sums: Sums) -> FitState:
        """Return ``state``."""
        return state
