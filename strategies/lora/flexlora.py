"""FlexLoRA: the mean of the products, cut to the adapter's rank by SVD; clients may differ in rank.

Bai et al. 2024, arXiv 2402.11505.
"""

from __future__ import annotations

from collections.abc import Iterable

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.factors import factor_names, stacked
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.lora._lora_strategy import check_row_norm, put, refactored
from fl2ora.strategies.lora._ranks import RankedLoRAStrategy
from fl2ora.strategies.updates import ClientUpdate


class FlexLoRA(RankedLoRAStrategy):
    """``M = sum_k p_k B_k A_k`` in its best rank r: ``A = V_r^T``, ``B = U_r S_r``.

    Nothing of rank r is nearer to M; what is cut off has norm ``sqrt(sum_{j>r} s_j^2)``. M is never
    formed. The first r_k rows and columns are the best rank r_k, and what a client of that rank
    starts from. Its product stands in M with zeros for the rest, so that low ranks shrink what only
    the high ones have, every round again and also if nobody moves: as published. A pair whose M is
    zero keeps its factors.

    Args:
        ranks: of the clients, going round as ``4,2,1`` or by key as ``site-a:4, site-b:2``.
        row_norm: length of the rows of A. A drawn A has about ``1/sqrt(3) = 0.577``; longer rows
            make B's steps larger by the square.
        weighting: ``examples`` or ``uniform``.
    """

    allows_feedback = False  # the factors' basis turns in every round

    def __init__(self, ranks: str = "", row_norm: float = 1.0, weighting: str = "examples") -> None:
        super().__init__(ranks, weighting)
        self.row_norm = check_row_norm(row_norm)

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Stack, decompose and cut; see ``Strategy.aggregate``."""
        factors, weights = self.gather(map(self.own_part, updates))
        result = dict(plan.current)
        for module, products in factors.items():
            turned = refactored(stacked(products, weights), products[0].rank, self.row_norm)
            if turned is not None:
                put(result, factor_names(module), turned)
        return result
