"""RoLoRA: the factors take turns, so that each average is exact and both learn.

Chen et al. 2024/25, arXiv 2409.02346 and 2502.01755; not the quantisation method of that name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.lora._lora_strategy import LoRAStrategy
from fl2ora.strategies.lora.lora_one_factor import mean_of_one, rule_for, trained_factor
from fl2ora.strategies.updates import ClientUpdate


class RoLoRA(LoRAStrategy):
    """B is trained and averaged in odd rounds, A in even rounds; the other is common and frozen.

    As long as B is zero everywhere A has no gradient: even rounds are then B's too.

    Args:
        weighting: ``examples`` or ``uniform``.
    """

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Let clients step on the factor whose turn it is; see ``Strategy.plan``."""
        plan = super().plan(server_round, current, clients)
        return replace(plan, rule=rule_for(_turn(server_round)))

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Average the factor whose turn it is; see ``Strategy.aggregate``."""
        factor = trained_factor(_turn(plan.round), plan.current)
        return mean_of_one(plan.current, updates, factor, self.weighting)


def _turn(server_round: int) -> str:
    return "B" if server_round % 2 else "A"
