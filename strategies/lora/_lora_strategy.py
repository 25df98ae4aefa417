"""What the strategies that work on LoRA factors share."""

from __future__ import annotations

from collections.abc import Iterable

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.factors import (
    Factors,
    best_of_rank,
    factor_names,
    factors_of,
    norm,
    pair_names,
    residual_names,
)  # fmt: skip
from fl2ora.experiment.errors import UserError
from fl2ora.strategies.base import RunInfo, Strategy
from fl2ora.strategies.updates import ClientUpdate, Weighting, in_order


class LoRAStrategy(Strategy):
    """A strategy on pairs ``A (r, i)``, ``B (o, r)``; refuses to train anything else.

    The scaling s of ``W + s B A`` is common to all clients and never enters the factors: it cancels
    from every server step.

    Args:
        weighting: ``examples`` (``p_k = n_k / sum_j n_j``) or ``uniform``.
    """

    def __init__(self, weighting: str = "examples") -> None:
        self.weighting = Weighting(weighting)

    def begin(self, run: RunInfo) -> None:
        """Refuse an adapter that is not made of LoRA pairs; see ``Strategy.begin``."""
        self._refuse_others(run.initial)
        super().begin(run)

    def _refuse_others(self, adapter: Adapter) -> None:
        modules = pair_names(adapter)
        known = {name for module in modules for name in factor_names(module)}
        carried = {name for module in modules for name in residual_names(module)}
        others = sorted(adapter.keys() - known - carried)
        if not modules or others:
            found = f"{', '.join(others[:3])}{', ...' if others[3:] else ''}" or "nothing"
            raise UserError(
                f"strategy {self.spec_name!r} combines LoRA factors only: expected method = "
                f"'lora(...)', whose tensors end in .lora_A.weight and .lora_B.weight, found "
                f"{found}"
            )
        if self.needs_residual and not carried <= adapter.keys():
            full = max(_full_rank(factors_of(adapter, module)) for module in modules)
            raise UserError(
                f"strategy {self.spec_name!r} moves the frozen weights by a residual that travels "
                f"with the adapter: expected method = 'lora_residual(residual_rank=N)', found one "
                f"without; N = {full} is exact for any number of rounds on this model"
            )

    def gather(
        self, updates: Iterable[ClientUpdate]
    ) -> tuple[dict[str, list[Factors]], list[float]]:
        """Return all clients' factors by module and their normalised weights p_k.

        Both are in the order of the clients' keys, so that nothing depends on who answered first.
        """
        collected = in_order(updates)
        weights = [self.weighting.of(update) for update in collected]
        total = sum(weights)
        modules = pair_names(collected[0].adapter)
        factors = {m: [factors_of(update.adapter, m) for update in collected] for m in modules}
        return factors, [weight / total for weight in weights]


def refactored(product: Factors, rank: int, row_norm: float = 1.0) -> Factors | None:
    """Return the nearest ``b a`` of a rank with orthogonal rows of a, each of norm ``row_norm``.

    None where the product is zero: the singular vectors of nothing are arbitrary, and the factors
    the clients have are the better ones to go on with.
    """
    if norm(product) == 0:
        return None
    best, _ = best_of_rank(product, rank)
    return Factors(best.a * row_norm, best.b / row_norm)


def check_row_norm(row_norm: float) -> float:
    """Return ``row_norm`` if it is finite and above 0.

    Raises:
        ValueError: it is not.
    """
    if not 0 < row_norm < float("inf"):
        raise ValueError(f"row_norm: expected a finite number above 0, found {row_norm}")
    return row_norm


def put(adapter: Adapter, names: tuple[str, str], product: Factors) -> None:
    """Write a product's factors into ``adapter`` under the names of A and B."""
    adapter[names[0]], adapter[names[1]] = product.a, product.b


def _full_rank(product: Factors) -> int:
    return min(product.a.shape[1], product.b.shape[0])
