"""Focal loss: ``mean_i -(1 - p_iy)^gamma ln p_iy``.

A full loss, which takes the place of cross-entropy; gamma 0 is cross-entropy. Lin et al. use
gamma 2 for detection, Mukhoti et al. 3 for calibration.

Source: Lin, Goyal, Girshick, He, Dollar, 2017, arXiv:1708.02002; Mukhoti et al., 2020,
arXiv:2002.09437.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import read, safe_power
from fl2ora.calibration.losses.base import Loss, LossContext


class Focal(Loss):
    """Cross-entropy with less weight on labels already given a high probability.

    Args:
        gamma: how fast the weight falls, >= 0.
    """

    def __init__(self, gamma: float = 3.0) -> None:
        self.gamma = number("gamma", gamma, at_least=0)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar loss of ``logits (B, K)`` and ``labels (B,)``."""
        log_py = read(logits, labels).log_py
        return -(safe_power(-torch.expm1(log_py), self.gamma) * log_py).mean()
