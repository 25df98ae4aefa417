"""CPC, calibration by pairwise constraints: ``bdc * BDC + bec * BEC``.

The binary discrimination constraint ``BDC = mean_i mean_{j != y} -ln sigmoid(z_iy - z_ij)`` sets
the label apart from each other class; the binary exclusion constraint
``BEC = mean_i sum_{j != l; j, l != y} -ln sigmoid(z_ij - z_il) / (2 (K - 1)(K - 2))`` keeps the
other classes level. A penalty: the authors train ``cross_entropy + cpc`` with the weights 0.1
and 1. Needs K >= 3 and memory for ``(B, K, K)`` numbers.

Cautions: a constraint on logit differences, so the weights depend on the logit scale. A public
implementation also sums j = l, which adds a constant and leaves the gradient as it is.

Source: Cheng, Vasconcelos, "Calibrating deep neural networks by pairwise constraints", CVPR 2022.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import read
from fl2ora.calibration.losses.base import Loss, LossContext


class Cpc(Loss):
    """Weighted sum of the pairwise discrimination and exclusion constraints.

    Args:
        bdc: weight of the discrimination constraint, >= 0.
        bec: weight of the exclusion constraint, >= 0.
    """

    is_penalty = True

    def __init__(self, bdc: float = 0.1, bec: float = 1.0) -> None:
        self.bdc = number("bdc", bdc, at_least=0)
        self.bec = number("bec", bec, at_least=0)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)`` and ``labels (B,)``."""
        batch = read(logits, labels)
        z, k = batch.logits, batch.num_classes
        if k < 3:
            raise ValueError(f"cpc: expected at least 3 classes, found {k}")
        other = 1 - batch.one_hot
        label = z.gather(1, labels[:, None])
        discrimination = (other * softplus(z - label)).sum(1) / (k - 1)
        pairs = other[:, :, None] * other[:, None, :]
        pairs = pairs - pairs.diagonal(dim1=1, dim2=2).diag_embed()
        costs = pairs * softplus(z[:, None, :] - z[:, :, None])
        exclusion = costs.sum((1, 2)) / (2 * (k - 1) * (k - 2))
        return (self.bdc * discrimination + self.bec * exclusion).mean()
