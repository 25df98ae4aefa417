"""MMCE with right and wrong predictions weighed alike.

With ``n1`` right and ``n0`` wrong predictions, ``c`` the top probability and the kernel ``k`` of
MMCE: ``sqrt(sum_11 (1-c)(1-c')k/n1^2 + sum_00 c c' k/n0^2 - 2 sum_10 (1-c)c' k/(n1 n0))``, and 0
where ``n1`` or ``n0`` is 0. A penalty: published weights are those of MMCE, 1 to 8.

Cautions: correctness carries no gradient. A batch statistic, biased upwards for small batches,
and silent on a batch that is all right or all wrong. A widely copied implementation divides by
the counts once more; weights tuned there differ.

Source: Kumar, Sarawagi, Jain, ICML 2018.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import read
from fl2ora.calibration.losses.base import Loss, LossContext
from fl2ora.calibration.losses.mmce import kernel_norm


class MmceWeighted(Loss):
    """Maximum mean calibration error between the right and the wrong predictions.

    Args:
        bandwidth: of the Laplacian kernel on confidence.
    """

    is_penalty = True

    def __init__(self, bandwidth: float = 0.4) -> None:
        self.bandwidth = number("bandwidth", bandwidth, above=0)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)`` and ``labels (B,)``."""
        batch = read(logits, labels)
        right, wrong = batch.correct, 1 - batch.correct
        mixed = (right.sum() * wrong.sum()).clamp(max=1)
        gaps = right * (1 - batch.confidence) / right.sum().clamp(min=1)
        gaps = gaps - wrong * batch.confidence / wrong.sum().clamp(min=1)
        return kernel_norm(mixed * gaps, batch.confidence, self.bandwidth)
