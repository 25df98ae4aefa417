"""Label smoothing over all K classes: ``mean_i (1 - alpha)(-ln p_iy) + alpha mean_j(-ln p_ij)``.

A full loss. The label keeps ``1 - alpha + alpha/K`` of the target and every other class gets
``alpha/K``; this is the convention of the paper and of PyTorch's ``label_smoothing``. With alpha
taken times ``K/(K - 1)`` it equals ``label_smoothing_others``. Alpha 0 is cross-entropy.

Source: Szegedy et al., 2016, arXiv:1512.00567; Mueller, Kornblith, Hinton, 2019,
arXiv:1906.02629. Default alpha from Liu et al., 2022, arXiv:2111.15430.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import read
from fl2ora.calibration.losses.base import Loss, LossContext


class LabelSmoothing(Loss):
    """Cross-entropy of labels mixed with the uniform distribution over all classes.

    Args:
        alpha: share of the uniform distribution, in [0, 1).
    """

    def __init__(self, alpha: float = 0.05) -> None:
        self.alpha = number("alpha", alpha, at_least=0, below=1)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar loss of ``logits (B, K)`` and ``labels (B,)``."""
        batch = read(logits, labels)
        return -((1 - self.alpha) * batch.log_py + self.alpha * batch.log_p.mean(1)).mean()
