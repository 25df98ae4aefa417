"""A weighted sum of losses: what ``cross_entropy + 10*dca`` means."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses.base import Loss, LossContext, Mixed


class WeightedSum(Loss):
    """The sum of ``weight * loss`` over pairs.

    Args:
        pairs: weights >= 0 and losses, at most one of which mixes batches.

    Raises:
        ValueError: no pair, a weight that is negative or not finite, or two mixing losses.
    """

    def __init__(self, pairs: Sequence[tuple[float, Loss]]) -> None:
        if not pairs:
            raise ValueError("pairs: expected at least one weighted loss, found none")
        self.pairs = tuple(
            (number(f"weight of {loss.name}", weight, at_least=0), loss) for weight, loss in pairs
        )
        self._mixing = [loss for _, loss in self.pairs if loss.mixes]
        if len(self._mixing) > 1:
            names = ", ".join(loss.name for loss in self._mixing)
            raise ValueError(f"pairs: expected at most one loss that mixes batches, found {names}")
        self.needs = frozenset().union(*(loss.needs for _, loss in self.pairs))
        self.is_penalty = all(loss.is_penalty for _, loss in self.pairs)

    @property
    def mixes(self) -> bool:
        """Whether one of the losses mixes batches."""
        return bool(self._mixing)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the weighted sum for ``logits (B, K)`` and ``labels (B,)``."""
        return self.evaluate(logits, labels, context)[0]

    def evaluate(
        self, logits: Tensor, labels: Tensor, context: LossContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and the detached, unweighted value of each term by name.

        Of terms with one name the second is called ``name_2``, and so on.
        """
        terms: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        for weight, loss in self.pairs:
            value, inner = loss.evaluate(logits, labels, context)
            weighted.append(weight * value)
            for name, term in inner.items():
                terms[_unused(name, terms)] = term
        return sum(weighted[1:], start=weighted[0]), terms

    def mix(self, images: Tensor, labels: Tensor, generator: Generator) -> Mixed | None:
        """Mix the batch as the one mixing loss does, or return None."""
        return self._mixing[0].mix(images, labels, generator) if self._mixing else None


def _unused(name: str, taken: dict[str, Tensor]) -> str:
    """Return ``name``, with a number if it is taken."""
    count, candidate = 1, name
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate
