"""Label smoothing over the K - 1 other classes.

``mean_i (1 - alpha)(-ln p_iy) + alpha/(K - 1) sum_{j != y}(-ln p_ij)``: the label keeps exactly
``1 - alpha``. A full loss, as in the MDCA authors' code, whose alpha of 0.1 is the default. It
equals ``label_smoothing`` with alpha taken times ``K/(K - 1)``. Alpha 0 is cross-entropy.

Source: Szegedy et al., 2016, arXiv:1512.00567, in the convention of Hebbalaguppe et al., 2022,
arXiv:2203.13834.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import read
from fl2ora.calibration.losses.base import Loss, LossContext


class LabelSmoothingOthers(Loss):
    """Cross-entropy of labels mixed with the uniform distribution over the other classes.

    Args:
        alpha: share of the other classes together, in [0, 1).
    """

    def __init__(self, alpha: float = 0.1) -> None:
        self.alpha = number("alpha", alpha, at_least=0, below=1)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar loss of ``logits (B, K)`` and ``labels (B,)``."""
        batch = read(logits, labels)
        others = (batch.log_p.sum(1) - batch.log_py) / max(batch.num_classes - 1, 1)
        return -((1 - self.alpha) * batch.log_py + self.alpha * others).mean()
