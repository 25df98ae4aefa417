"""FFA-LoRA: A stays as it was drawn, only B is trained and averaged.

Sun et al. 2024, arXiv 2403.12313.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.lora._lora_strategy import LoRAStrategy
from fl2ora.strategies.lora.lora_one_factor import mean_of_one, rule_for
from fl2ora.strategies.updates import ClientUpdate


class FFALoRA(LoRAStrategy):
    """``B = sum_k p_k B_k`` with the common, frozen initial A: exact, ``mean(B) A = mean(B_k A)``.

    The server needs only a weighted sum, and noise added to B is not multiplied by noise in A.

    Args:
        weighting: ``examples`` or ``uniform``.
    """

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Let clients step on B only; see ``Strategy.plan``."""
        return replace(super().plan(server_round, current, clients), rule=rule_for("B"))

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Average B and keep A; see ``Strategy.aggregate``."""
        return mean_of_one(plan.current, updates, "B", self.weighting)
