"""Strategies that put what the factors cannot hold into the frozen weights, as a carried residual.

See ``clip_tuning.methods.lora_residual``: ``W + s (B A + B_r A_r)`` with a residual of rank R.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.factors import (
    Factors,
    best_of_rank,
    factor_names,
    norm,
    residual_names,
    residual_of,
)
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.lora._lora_strategy import put
from fl2ora.strategies.lora._ranks import RankedLoRAStrategy, with_unsent
from fl2ora.strategies.updates import ClientUpdate

_ROUNDING = 1e-12


class ResidualLoRAStrategy(RankedLoRAStrategy):
    """Splits the mean of the products into new factors and an addition to the residual.

    What a client of lower rank was not sent counts as not moved: if all clients stay where they
    started, nothing changes.

    The residual is exact as long as its rank is at most R, and for good where R is the smaller side
    of the weight; beyond, the nearest one of rank R is kept and ``lora_residual_truncation`` tells
    what was cut off, relative to the residual.

    Args:
        ranks: of the clients, going round as ``4,2,1`` or by key as ``site-a:4, site-b:2``.
        weighting: ``examples`` or ``uniform``.
    """

    needs_residual = True

    def __init__(self, ranks: str = "", weighting: str = "examples") -> None:
        super().__init__(ranks, weighting)
        self._truncation = 0.0

    @abstractmethod
    def split(
        self,
        server_round: int,
        module: str,
        products: Sequence[Factors],
        weights: Sequence[float],
    ) -> tuple[Factors, Factors]:
        """Return one pair's new factors and what is added to its residual.

        Args:
            server_round: counted from 1.
            module: name of the pair.
            products: of the clients.
            weights: p_k of the clients; they sum to 1.
        """

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Split every pair and move the residuals; see ``Strategy.aggregate``."""
        whole_updates = (with_unsent(plan, self.own_part(update)) for update in updates)
        factors, weights = self.gather(whole_updates)
        result = dict(plan.current)
        whole, cut = [], []
        for module, products in factors.items():
            following, addition = self.split(plan.round, module, products, weights)
            put(result, factor_names(module), following)
            before = residual_of(plan.current, module)
            assert before is not None
            if norm(addition) <= _ROUNDING * max(norm(product) for product in products):
                continue
            moved = before.plus(addition)
            kept, lost = best_of_rank(moved, before.rank)
            # Nobody learns on the residual: rows that B does not use need no direction.
            used = kept.b.any(dim=0)[:, None]
            # Adding zero makes negative zeros plain ones, which need not travel.
            moved_on = Factors(kept.a * used + 0.0, kept.b + 0.0)
            put(result, residual_names(module), moved_on)
            whole.append(norm(moved))
            cut.append(lost)
        size = math.hypot(*whole)
        self._truncation = math.hypot(*cut) / size if size else 0.0
        return result

    def metrics(self) -> dict[str, float]:
        """Return what the last round's residuals lost; see ``Strategy.metrics``."""
        return {"lora_residual_truncation": self._truncation}
