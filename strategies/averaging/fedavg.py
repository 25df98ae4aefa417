"""FedAvg: the mean of the clients' adapters, weighted by their numbers of examples.

McMahan et al. 2016, arXiv 1602.05629. On LoRA factors this is FedIT (Zhang et al. 2023, arXiv
2305.05644), and what FL2oRA does (Singha et al. 2025, arXiv 2512.04305).
"""

from __future__ import annotations

from collections.abc import Iterable

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.updates import ClientUpdate, WeightedMean, Weighting


class FedAvg(Strategy):
    """``sum_k p_k theta_k`` with ``p_k = n_k / sum_j n_j`` over the clients that answered.

    Args:
        weighting: ``examples`` (n_k as above) or ``uniform`` (every client counts the same).
    """

    def __init__(self, weighting: str = "examples") -> None:
        self.weighting = Weighting(weighting)

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Average the stream of updates; see ``Strategy.aggregate``."""
        return WeightedMean.of(updates, self.weighting).result()
