"""Brier loss: ``mean_i sum_j (p_ij - 1[y_i = j])^2``, in [0, 2].

A full loss, which takes the place of cross-entropy. Its gradient vanishes where a prediction is
confidently wrong, so it learns slowly from a poor start.

Source: Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
Review 78, 1950.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._batch import read
from fl2ora.calibration.losses.base import Loss, LossContext


class Brier(Loss):
    """Squared distance of the probabilities to the labels."""

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar loss of ``logits (B, K)`` and ``labels (B,)``."""
        batch = read(logits, labels)
        return (batch.p - batch.one_hot).square().sum(1).mean()
