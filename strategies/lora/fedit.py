"""FedIT: the factors of LoRA are averaged apart, as in FL2oRA.

Zhang et al. 2023, arXiv 2305.05644; Singha et al. 2025, arXiv 2512.04305.
"""

from __future__ import annotations

from collections.abc import Iterable

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.lora._lora_strategy import LoRAStrategy
from fl2ora.strategies.updates import ClientUpdate, WeightedMean


class FedIT(LoRAStrategy):
    """``A = sum_k p_k A_k``, ``B = sum_k p_k B_k``: FedAvg that refuses anything but LoRA.

    The product of the means is not the mean of the products; it misses the clients' weighted
    cross-covariance ``sum_k p_k (B_k - B)(A_k - A)``. What that comes to is logged every round.

    Args:
        weighting: ``examples`` or ``uniform``.
    """

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Average the stream of updates; see ``Strategy.aggregate``."""
        return WeightedMean.of(updates, self.weighting).result()
