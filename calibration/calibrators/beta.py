"""Beta calibration of the top-1 confidence: ``sigmoid(a ln c - b ln(1 - c) + d)``.

Source: Kull, Silva Filho, Flach, "Beta calibration: a well-founded and easily implemented
improvement on logistic calibration for binary classifiers", AISTATS 2017.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._logistic import LogisticCalibrator
from fl2ora.calibration.calibrators._top1 import Top1


class Beta(LogisticCalibrator):
    """Map the confidence by a curve of three parameters; ``a = b = 1, d = 0`` is the identity.

    Parameters: ``coefficients (3,)``: a >= 0, b >= 0, d.

    Args:
        smooth: fit to Platt's smoothed targets instead of 1 and 0, so that an optimum exists on
            any data; without it, separable data ends at the gradient tolerance.
    """

    identity: ClassVar[tuple[float, ...]] = (1.0, 1.0, 0.0)

    def inputs(self, top: Top1) -> Tensor:
        """Return ``(ln c, -ln(1 - c), 1)``, ``(N, 3)``."""
        ones = torch.ones_like(top.confidence)
        return torch.stack([top.log_confidence, -top.log_rest, ones], dim=1)
