"""Dual focal loss: ``mean_i -(1 - p_iy + p_ij)^gamma ln p_iy``.

``p_ij`` is the largest probability below ``p_iy``, or 0 if none is: the weight looks at the gap
to the runner-up as well. A full loss. Gamma 5 is used for CIFAR; gamma 0 is cross-entropy.

Source: Tao, Dong, Xu, 2023, arXiv:2305.13665.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import read, safe_power
from fl2ora.calibration.losses.base import Loss, LossContext


class DualFocal(Loss):
    """Focal loss that weighs by the gap between the label and the class ranked below it.

    Args:
        gamma: how fast the weight falls with the gap, >= 0.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        self.gamma = number("gamma", gamma, at_least=0)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar loss of ``logits (B, K)`` and ``labels (B,)``."""
        batch = read(logits, labels)
        below = batch.p < batch.log_py.exp()[:, None]
        runner_up = torch.where(below, batch.p, 0.0).amax(1)
        base = runner_up - torch.expm1(batch.log_py)
        return -(safe_power(base, self.gamma) * batch.log_py).mean()
