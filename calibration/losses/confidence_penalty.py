"""Confidence penalty (ECP), the negative entropy: ``mean_i sum_j p_ij ln p_ij``.

A penalty in [-ln K, 0], smaller for less confident predictions: the authors train
``cross_entropy + 0.1*confidence_penalty``. The MbLS authors' code also averages over the classes,
which divides by K: ``per_class=True``.

Source: Pereyra, Tucker, Chorowski, Kaiser, Hinton, 2017, arXiv:1701.06548.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._arguments import flag
from fl2ora.calibration.losses._batch import read
from fl2ora.calibration.losses.base import Loss, LossContext


class ConfidencePenalty(Loss):
    """Mean negative entropy of the predictions, in nats.

    Args:
        per_class: divide by the number of classes.
    """

    is_penalty = True

    def __init__(self, per_class: bool = False) -> None:
        self.per_class = flag("per_class", per_class)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)``; ``labels (B,)`` are not used."""
        batch = read(logits, labels)
        return -batch.entropy.mean() / (batch.num_classes if self.per_class else 1)
