"""MDCA, DCA class by class: ``(1/K) sum_j |mean_i p_ij - mean_i 1[y_i = j]|``.

A penalty: the authors weigh it 1 beside cross-entropy, label smoothing or focal loss with
gamma 1 to 3.

Cautions: a batch statistic, biased upwards for small batches. Under label skew it pulls a
client's mean prediction to that client's own label shares. The subgradient at 0 is 0.

Source: Hebbalaguppe, Prakash, Madan, Arora, 2022, arXiv:2203.13834.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._batch import read
from fl2ora.calibration.losses.base import Loss, LossContext


class Mdca(Loss):
    """Mean over the classes of the gap between mean probability and label share, in [0, 1]."""

    is_penalty = True

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)`` and ``labels (B,)``."""
        batch = read(logits, labels)
        return (batch.p - batch.one_hot).mean(0).abs().mean()
