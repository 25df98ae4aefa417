"""ZS-Norm: cross-entropy of logits brought into the zero-shot range.

Per sample ``z' = (z - min z) / (max z - min z) * (max z_zs - min z_zs) + min z_zs`` with the
frozen model's logits ``z_zs`` of the same image, then the cross-entropy of z'. A full loss. The
gradient passes through minimum and maximum; where all logits are equal to within 1e-12 z' is
``min z_zs`` and the gradient 0.

Caution: the spread of the raw logits is left free, so apply the same map at test time (SaLS) to
have the confidence that was trained.

Source: Murugesan, Silva-Rodriguez, Ben Ayed, Dolz, ECCV 2024, arXiv:2407.13588.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl2ora.calibration.losses._batch import bounded, check_shape, read
from fl2ora.calibration.losses.base import Loss, LossContext

FLAT = 1e-12
"""A spread of logits below this is rounding."""


def normalise(z: Tensor, zero_shot: Tensor) -> Tensor:
    """Return ``z (B, K)`` scaled per row to the range of ``zero_shot (B, K)``."""
    low, high = z.amin(1, keepdim=True), z.amax(1, keepdim=True)
    zero_shot_low = zero_shot.amin(1, keepdim=True)
    spread = high - low
    flat = spread <= FLAT
    ratio = (zero_shot.amax(1, keepdim=True) - zero_shot_low) / torch.where(flat, 1.0, spread)
    return torch.where(flat, zero_shot_low, (z - low) * ratio + zero_shot_low)


class ZsNorm(Loss):
    """Cross-entropy of logits scaled to the range of the zero-shot logits."""

    needs = frozenset({"zero_shot_logits"})

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar loss of ``logits (B, K)`` and ``labels (B,)``."""
        zero_shot = self.require(context.zero_shot_logits, "zero_shot_logits").detach()
        check_shape("zero_shot_logits", zero_shot, logits.shape)
        z = read(logits, labels).logits
        return -read(normalise(z, bounded(zero_shot).to(z)), labels).log_py.mean()
