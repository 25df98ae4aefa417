"""NUCFL, non-uniform calibration in a federation: ``beta * penalty`` with a client's own beta.

``beta = weight * max(0, similarity)`` where the similarity is the cosine of the client's change
so far in this round to the last change of the global model, on the products of LoRA factors where
there are any. A client that moves as the federation did is calibrated more, one that does not is
left to fit. In the first round, or without a change, beta is 0. A penalty: train
``cross_entropy + nucfl(penalty='mdca')``.

Cautions: those of the inner penalty. The paper does not fix how gradients are accumulated; the
trainer measures the change of the adapter since the round began.

Source: Chu, Han, Hosseinalipour, Brinton, ICLR 2025, arXiv:2409.04901.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._arguments import choice, number
from fl2ora.calibration.losses.base import Loss, LossContext
from fl2ora.calibration.losses.dca import Dca
from fl2ora.calibration.losses.mdca import Mdca

_ROUNDING = 1e-4


class Nucfl(Loss):
    """DCA or MDCA, weighed by the similarity of the local to the last global change.

    Args:
        penalty: ``dca`` or ``mdca``.
        weight: beta at similarity 1, >= 0.
    """

    is_penalty = True
    needs = frozenset({"update_similarity"})

    def __init__(self, penalty: str = "dca", weight: float = 1.0) -> None:
        inner: Loss = Dca() if choice("penalty", penalty, ("dca", "mdca")) == "dca" else Mdca()
        self.penalty = inner
        self.weight = number("weight", weight, at_least=0)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)`` and ``labels (B,)``."""
        similarity = context.update_similarity
        if not -1 - _ROUNDING <= similarity <= 1 + _ROUNDING:
            raise ValueError(f"update_similarity: expected a cosine, found {similarity!r}")
        beta = self.weight * min(max(0.0, similarity), 1.0)
        return beta * self.penalty(logits, labels, context)
