"""Platt scaling of the top-1 confidence: ``sigmoid(a logit(c) + d)``.

Source: Platt, "Probabilistic outputs for support vector machines and comparisons to regularized
likelihood methods", 1999.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._logistic import LogisticCalibrator
from fl2ora.calibration.calibrators._top1 import Top1


class Platt(LogisticCalibrator):
    """Map the confidence by a line in its log-odds; ``a = 1, d = 0`` is the identity.

    Parameters: ``coefficients (2,)``: a >= 0, d.

    Args:
        smooth: fit to Platt's smoothed targets instead of 1 and 0, so that an optimum exists on
            any data; without it, separable data ends at the gradient tolerance.
    """

    identity: ClassVar[tuple[float, ...]] = (1.0, 0.0)

    def inputs(self, top: Top1) -> Tensor:
        """Return ``(ln c - ln(1 - c), 1)``, ``(N, 2)``."""
        ones = torch.ones_like(top.confidence)
        return torch.stack([top.log_confidence - top.log_rest, ones], dim=1)
