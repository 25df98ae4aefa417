"""AvUC, accuracy versus uncertainty, with a hard entropy threshold h.

``ln(1 + (n_AU + n_IC) / (n_AC + n_IU))`` over the accurate and inaccurate samples that are
certain (entropy ``H <= h``) or uncertain: ``n_AC = sum c (1 - tanh H)``, ``n_AU = sum c tanh H``,
``n_IC = sum (1 - c)(1 - tanh H)``, ``n_IU = sum (1 - c) tanh H``, c the top probability. A
penalty: the authors weigh it 3 and, after a warm-up, set h midway between the mean entropies of
right and wrong predictions. Without a threshold h is that midpoint in the batch at hand, and the
mean entropy of a batch that is all right or all wrong.

Cautions: accuracy and the threshold carry no gradient. A batch statistic, biased upwards for
small batches; the value jumps where an entropy crosses h.

Source: Krishnan, Tickoo, 2020, arXiv:2012.07923.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import Batch, read
from fl2ora.calibration.losses.base import Loss, LossContext

_SMALL = 1e-10


def log_ratio(good: Tensor, bad: Tensor) -> Tensor:
    """Return ``ln(1 + bad / good)`` for sums >= 0, finite at good = 0 and 0 at bad = 0."""
    return (good + bad + _SMALL).log() - (good + _SMALL).log()


def _midpoint(batch: Batch) -> Tensor:
    """Return the midpoint of the mean entropies of right and wrong predictions."""
    entropy, right = batch.entropy.detach(), batch.correct
    counts = torch.stack([right.sum(), (1 - right).sum()])
    sums = torch.stack([(right * entropy).sum(), ((1 - right) * entropy).sum()])
    return (sums / counts.clamp(min=1)).sum() / counts.clamp(max=1).sum()


class Avuc(Loss):
    """Cost of accurate but uncertain and of inaccurate but certain predictions.

    Args:
        threshold: entropy in nats up to which a prediction counts as certain; None for the
            midpoint of the batch.
    """

    is_penalty = True

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = None if threshold is None else number("threshold", threshold, at_least=0)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)`` and ``labels (B,)``."""
        batch = read(logits, labels)
        threshold = _midpoint(batch) if self.threshold is None else self.threshold
        certain = (batch.entropy <= threshold).to(batch.logits.dtype)
        uncertainty = batch.entropy.tanh()
        right = batch.correct * batch.confidence
        wrong = (1 - batch.correct) * (1 - batch.confidence)
        sure, unsure = certain * (1 - uncertainty), (1 - certain) * uncertainty
        return log_ratio(
            (right * sure + wrong * unsure).sum(), (right * unsure + wrong * sure).sum()
        )
