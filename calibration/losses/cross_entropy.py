"""Cross-entropy, the logarithmic score: ``mean_i -ln p_iy``.

A full loss, and the usual first term of a sum.

Source: Good, "Rational decisions", Journal of the Royal Statistical Society B 14, 1952.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._batch import read
from fl2ora.calibration.losses.base import Loss, LossContext


class CrossEntropy(Loss):
    """Cross-entropy of the labels."""

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar loss of ``logits (B, K)`` and ``labels (B,)``."""
        return -read(logits, labels).log_py.mean()
