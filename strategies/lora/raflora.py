"""raFLoRA: FlexLoRA whose ranks are averaged over the clients that have them.

Wu et al. 2026, arXiv 2602.13486.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.factors import Factors, factor_names, factors_of, stacked
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.lora._lora_strategy import check_row_norm, put, refactored
from fl2ora.strategies.lora._ranks import RankedLoRAStrategy
from fl2ora.strategies.updates import ClientUpdate, in_order


class RaFLoRA(RankedLoRAStrategy):
    """``M = sum_j sum_{k: r_k >= j} q_kj B_k[:, j] A_k[j]`` in its best rank r, as in FlexLoRA.

    ``q_kj = p_k / sum_{l: r_l >= j} p_l``: row j of A and column j of B count among the clients
    whose rank reaches j, so that clients of lower rank do not shrink it. With equal ranks it is
    FlexLoRA. A row that no client of the round has stays as it is; the paper does not say.

    Args:
        ranks: of the clients, going round as ``4,2,1`` or by key as ``site-a:4, site-b:2``.
        row_norm: length of the rows of A; see ``flexlora``.
        weighting: ``examples`` or ``uniform``.
    """

    allows_feedback = False  # the factors' basis turns in every round

    def __init__(self, ranks: str = "", row_norm: float = 1.0, weighting: str = "examples") -> None:
        super().__init__(ranks, weighting)
        self.row_norm = check_row_norm(row_norm)

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Weight by row, stack, decompose and cut; see ``Strategy.aggregate``."""
        collected = in_order(map(self.own_part, updates))
        factors, weights = self.gather(collected)
        clients = [update.client for update in collected]
        result = dict(plan.current)
        for module, products in factors.items():
            rank = products[0].rank
            shares = row_shares([self.rank_of(client, rank) for client in clients], weights, rank)
            weighted = [Factors(p.a, p.b * q) for p, q in zip(products, shares, strict=True)]
            current = factors_of(plan.current, module)
            weighted.append(Factors(current.a, current.b * (shares.sum(dim=0) == 0)))
            turned = refactored(stacked(weighted, [1.0] * len(weighted)), rank, self.row_norm)
            if turned is not None:
                put(result, factor_names(module), turned)
        return result


def row_shares(ranks: Sequence[int], weights: Sequence[float], rank: int) -> Tensor:
    """Return ``(K, rank)`` float64: what each client counts in each row; 0 where nobody does.

    >>> row_shares([2, 1], [0.25, 0.75], 3).tolist()
    [[0.25, 1.0, 0.0], [0.75, 0.0, 0.0]]
    """
    reaches = torch.arange(rank) < torch.tensor(ranks)[:, None]
    counted = reaches * torch.tensor(weights, dtype=torch.float64)[:, None]
    total = counted.sum(dim=0)
    return counted / torch.where(total > 0, total, 1.0)
