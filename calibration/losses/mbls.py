"""MbLS, margin-based label smoothing: ``mean_ij max(0, max_l z_il - z_ij - margin)``.

A penalty on logit distances beyond the margin: the authors train ``cross_entropy + 0.1*mbls``
with margin 10.

Caution: the margin assumes logits trained by cross-entropy alone. CLIP's are 100 times a cosine,
with a zero-shot spread of about 5 to 20, so tune the margin again.

Source: Liu, Ben Ayed, Galdran, Dolz, 2022, arXiv:2111.15430.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import read
from fl2ora.calibration.losses.base import Loss, LossContext


class Mbls(Loss):
    """Mean excess of the distance to the largest logit over a margin.

    Args:
        margin: distance left free, >= 0, in units of the logits.
    """

    is_penalty = True

    def __init__(self, margin: float = 10.0) -> None:
        self.margin = number("margin", margin, at_least=0)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)``; ``labels (B,)`` are not used."""
        z = read(logits, labels).logits
        return (z.amax(1, keepdim=True) - z - self.margin).relu().mean()
