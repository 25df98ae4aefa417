"""Soft AvUC, accuracy versus uncertainty with a soft threshold.

With the entropy H, ``e = H / ln K`` and ``t = sigmoid(ln(e (1 - k) / ((1 - e) k)) / T)``:
``ln(1 + (n_AU + n_IC) / (n_AC + n_IU))`` where ``n_AC = sum (1 - t)(1 - tanh H)`` and
``n_AU = sum t tanh H`` over right predictions, ``n_IC`` and ``n_IU`` likewise over wrong ones. A
penalty; the weight is searched, and T = 1, k = 0.5 are only a start.

Cautions: accuracy carries no gradient. A batch statistic, biased upwards for small batches.

Source: Karandikar et al., 2021, arXiv:2108.00106, after Krishnan, Tickoo, 2020,
arXiv:2012.07923.
"""

from __future__ import annotations

import math

from torch import Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import read
from fl2ora.calibration.losses.avuc import log_ratio
from fl2ora.calibration.losses.base import Loss, LossContext

_EDGE = 1e-6


class SoftAvuc(Loss):
    """Cost of right predictions with high and of wrong ones with low entropy. Needs K >= 2.

    Args:
        temperature: T, the softness of the threshold.
        threshold: k, as a fraction of the largest entropy, in (0, 1).
    """

    is_penalty = True

    def __init__(self, temperature: float = 1.0, threshold: float = 0.5) -> None:
        self.temperature = number("temperature", temperature, above=0)
        self.threshold = number("threshold", threshold, above=0, below=1)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)`` and ``labels (B,)``."""
        batch = read(logits, labels)
        if batch.num_classes < 2:
            raise ValueError("soft_avuc: expected at least 2 classes, found 1")
        entropy = batch.entropy
        relative = (entropy / math.log(batch.num_classes)).clamp(_EDGE, 1 - _EDGE)
        shift = math.log((1 - self.threshold) / self.threshold)
        uncertain = ((relative.logit() + shift) / self.temperature).sigmoid()
        right, wrong = batch.correct, 1 - batch.correct
        sure, unsure = (1 - uncertain) * (1 - entropy.tanh()), uncertain * entropy.tanh()
        return log_ratio(
            (right * sure + wrong * unsure).sum(), (right * unsure + wrong * sure).sum()
        )
