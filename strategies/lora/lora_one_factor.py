"""Training and averaging one factor of each LoRA pair while the other stays as it is.

With one factor equal on all clients the mean of the other is exact:
``sum_k p_k B_k A = (sum_k p_k B_k) A``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.factors import factor_names, pair_names
from fl2ora.experiment.errors import UserError
from fl2ora.strategies.client_rule import ClientRule, LocalStart
from fl2ora.strategies.updates import ClientUpdate, WeightedMean, Weighting

_POSITION = {"A": 0, "B": 1}


class TrainOneFactor(ClientRule):
    """Steps only on one factor; the other stays the received one bit for bit.

    Its gradient is taken away before every step, and SGD leaves a parameter without a gradient
    alone: no momentum, no weight decay.

    Args:
        factor: ``A`` or ``B``; instead of an A that has no gradient, because B is zero, B is
            trained.
    """

    def __init__(self, factor: str) -> None:
        if factor not in _POSITION:
            raise ValueError(f"factor: expected 'A' or 'B', found {factor!r}")
        self.factor = factor

    def begin(self, start: LocalStart) -> None:
        """Find the parameters that are not to move.

        Raises:
            UserError: there are no LoRA pairs.
        """
        trained = one_factor(start.tuned, trained_factor(self.factor, start.tuned))
        if not trained:
            raise UserError(
                f"the strategy trains the factor {self.factor} of LoRA pairs, found none among "
                f"what is tuned: expected method = 'lora(...)'"
            )
        self._frozen = [p for name, p in start.tuned.items() if name not in trained]

    def after_backward(self) -> None:
        """Take the gradients of the frozen parameters away."""
        for parameter in self._frozen:
            parameter.grad = None


def one_factor(adapter: Mapping[str, object], factor: str) -> set[str]:
    """Return the names of all A or all B of the pairs in ``adapter``."""
    return {factor_names(module)[_POSITION[factor]] for module in pair_names(adapter)}


def trained_factor(factor: str, adapter: Mapping[str, Tensor]) -> str:
    """Return which factor a round can train whose turn is ``factor``'s: B where all B are zero."""
    dead = not any(bool(adapter[name].any()) for name in one_factor(adapter, "B"))
    return "B" if dead else factor


def rule_for(factor: str) -> str:
    """Return the spec of the client half that trains one factor."""
    return f"lora_one_factor(factor={factor!r})"


def mean_of_one(
    current: Adapter, updates: Iterable[ClientUpdate], factor: str, weighting: Weighting
) -> Adapter:
    """Return ``current`` with one factor averaged; what clients send of the rest is not looked at.

    Args:
        current: what the clients started from.
        updates: may be a stream.
        factor: ``A`` or ``B``.
        weighting: of the mean.
    """
    names = one_factor(current, factor)
    mean = WeightedMean()
    for update in updates:
        mean.add({name: update.adapter[name] for name in names}, weighting.of(update))
    return {**current, **mean.result()}
