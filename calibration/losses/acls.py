"""ACLS, adaptive and conditional label smoothing, as a penalty on logits.

``largest * mean_i max(0, z_max - margin)^2 + others * mean_{i, j != max} max(0, z_max - z_ij -
margin)^2``, the second ``z_max`` without gradient. A penalty: the authors train
``cross_entropy + 0.1*acls`` with margin 10 and, for Tiny ImageNet, the weights 1 and 0.1.

Cautions: the first term bounds the raw logit, so the penalty changes when a constant is added to
all logits of a sample. CLIP's logits are 100 times a cosine, about 25 zero-shot: with margin 10
that term dominates, so set the margin anew.

Source: Park, Noh, Oh, Baek, Ham, 2023, arXiv:2308.11911.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import read
from fl2ora.calibration.losses.base import Loss, LossContext


class Acls(Loss):
    """Squared excess of the largest logit and of the distances to it over a margin.

    Args:
        margin: what is left free, >= 0, in units of the logits.
        largest: weight of the term of the largest logit, >= 0.
        others: weight of the term of the other logits, >= 0.
    """

    is_penalty = True

    def __init__(self, margin: float = 10.0, largest: float = 1.0, others: float = 0.1) -> None:
        self.margin = number("margin", margin, at_least=0)
        self.largest = number("largest", largest, at_least=0)
        self.others = number("others", others, at_least=0)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)``; ``labels (B,)`` are not used."""
        batch = read(logits, labels)
        top = batch.logits.gather(1, batch.predicted[:, None])
        high = (top - self.margin).relu().square().mean()
        # At the largest logit itself the distance is 0, so its own entry adds nothing.
        apart = (top.detach() - batch.logits - self.margin).relu().square()
        pairs = len(labels) * max(batch.num_classes - 1, 1)
        return self.largest * high + self.others * apart.sum() / pairs
