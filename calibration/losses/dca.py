"""DCA, the difference between confidence and accuracy: ``|mean_i c_i - mean_i a_i|``.

``c_i`` is the top probability and ``a_i`` is 1 where the prediction is right. A penalty: the
authors train ``cross_entropy + 10*dca``, the MDCA authors' code weighs it 1.

Cautions: the accuracy carries no gradient, so the penalty moves confidence alone. It is a batch
statistic: even a calibrated batch has a value of about sqrt(variance / B), so a small last batch
is pulled hardest. The subgradient at 0 is 0.

Source: Liang, Zhang, Wang, Jacobs, 2020, arXiv:2009.04057.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._batch import read
from fl2ora.calibration.losses.base import Loss, LossContext


class Dca(Loss):
    """Difference between mean confidence and accuracy of the batch, in [0, 1]."""

    is_penalty = True

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)`` and ``labels (B,)``."""
        batch = read(logits, labels)
        return (batch.confidence - batch.correct).mean().abs()
