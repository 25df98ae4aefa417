"""Zero-shot penalty: how far logits leave the range of the zero-shot logits.

``mean_ij max(0, z_ij - max z_zs,i) + mean_ij max(0, min z_zs,i - z_ij)`` with the frozen model's
logits ``z_zs`` of the same image. A penalty: the authors train
``cross_entropy + 10*zs_penalty``.

Caution: the range is that of raw logits, so a constant added to all logits of a sample counts.

Source: Murugesan, Silva-Rodriguez, Ben Ayed, Dolz, ECCV 2024, arXiv:2407.13588.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._batch import bounded, check_shape, read
from fl2ora.calibration.losses.base import Loss, LossContext


class ZsPenalty(Loss):
    """Mean excess of the logits over the zero-shot range, on both sides."""

    is_penalty = True
    needs = frozenset({"zero_shot_logits"})

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)``; ``labels (B,)`` are not used."""
        zero_shot = self.require(context.zero_shot_logits, "zero_shot_logits").detach()
        check_shape("zero_shot_logits", zero_shot, logits.shape)
        z = read(logits, labels).logits
        zero_shot = bounded(zero_shot).to(z)
        above = (z - zero_shot.amax(1, keepdim=True)).relu()
        below = (zero_shot.amin(1, keepdim=True) - z).relu()
        return (above + below).mean()
