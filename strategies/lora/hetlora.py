"""HetLoRA: clients of different ranks, padded with zeros and weighted by how far they went.

Cho et al. 2024, arXiv 2401.06432. Its rank pruning and the penalty that prepares it are left out:
every client keeps its rank.
"""

from __future__ import annotations

from collections.abc import Iterable

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.factors import factor_names, mean_of, norm
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.lora._lora_strategy import put
from fl2ora.strategies.lora._ranks import RankedLoRAStrategy
from fl2ora.strategies.updates import ClientUpdate


class HetLoRA(RankedLoRAStrategy):
    """``A = sum_k z_k A_k``, ``B = sum_k z_k B_k``, ``z_k = |B_k A_k|_F / sum_j |B_j A_j|_F``.

    The norms are over all pairs together. Where all are zero the clients count by their examples.
    Factors are averaged apart: inexact as FedIT, and padding with zeros shrinks what only the high
    ranks have, every round again and also if nobody moves: as published.

    Args:
        ranks: of the clients, going round as ``4,2,1`` or by key as ``site-a:4, site-b:2``.
    """

    def __init__(self, ranks: str = "") -> None:
        super().__init__(ranks)

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Weigh and average; see ``Strategy.aggregate``."""
        factors, weights = self.gather(map(self.own_part, updates))
        squares = [
            sum(norm(product) ** 2 for product in of_client)
            for of_client in zip(*factors.values(), strict=True)
        ]
        lengths = [square**0.5 for square in squares]
        if any(lengths):
            weights = [length / sum(lengths) for length in lengths]
        result = dict(plan.current)
        for module, products in factors.items():
            put(result, factor_names(module), mean_of(products, weights))
        return result
