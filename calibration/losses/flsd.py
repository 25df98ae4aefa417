"""FLSD-53, focal loss with a sample-dependent gamma: 5 where ``p_y < 0.2``, else 3.

A full loss. The rule approximates the gamma at which the focal factor starts to shrink the
gradient, which rises as ``p_y`` falls (4.85 at 0.2, 3.07 at 0.25).

Caution: the loss jumps where ``p_y`` crosses the threshold; the choice carries no gradient.

Source: Mukhoti, Kulharia, Sanyal, Golodetz, Torr, Dokania, 2020, arXiv:2002.09437.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import read, safe_power
from fl2ora.calibration.losses.base import Loss, LossContext


class Flsd(Loss):
    """Focal loss with one gamma for hard and one for easy samples.

    Args:
        gamma_hard: where ``p_y < threshold``.
        gamma_easy: elsewhere.
        threshold: on the probability of the label, in (0, 1).
    """

    def __init__(
        self, gamma_hard: float = 5.0, gamma_easy: float = 3.0, threshold: float = 0.2
    ) -> None:
        self.gamma_hard = number("gamma_hard", gamma_hard, at_least=0)
        self.gamma_easy = number("gamma_easy", gamma_easy, at_least=0)
        self.threshold = number("threshold", threshold, above=0, below=1)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar loss of ``logits (B, K)`` and ``labels (B,)``."""
        log_py = read(logits, labels).log_py
        hard = log_py.detach().exp() < self.threshold
        gamma = torch.where(hard, self.gamma_hard, self.gamma_easy).to(log_py)
        return -(safe_power(-torch.expm1(log_py), gamma) * log_py).mean()
