"""FedSVD: B is trained; every round A turns to the principal directions of what was learned.

Lee et al. 2025, arXiv 2505.12805; https://github.com/seanie12/fed-svd.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.factors import factor_names, factors_of, pair_names
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.lora._lora_strategy import LoRAStrategy, check_row_norm, put, refactored
from fl2ora.strategies.lora.lora_one_factor import mean_of_one, rule_for
from fl2ora.strategies.updates import ClientUpdate


class FedSVD(LoRAStrategy):
    """The exact mean ``mean(B) A`` of FFA-LoRA in a new basis: ``A = V^T``, ``B = U S``.

    The update stays what it is. The rows of A become orthogonal, and rows whose singular value is
    zero stay there to be learned on. A pair whose update is zero keeps its factors.

    Args:
        row_norm: length of the new rows of A. A drawn A has about ``1/sqrt(3) = 0.577``; longer
            rows make B's steps larger by the square.
        weighting: ``examples`` or ``uniform``.
    """

    allows_feedback = False  # the factors' basis turns in every round

    def __init__(self, row_norm: float = 1.0, weighting: str = "examples") -> None:
        super().__init__(weighting)
        self.row_norm = check_row_norm(row_norm)

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Let clients step on B only; see ``Strategy.plan``."""
        return replace(super().plan(server_round, current, clients), rule=rule_for("B"))

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Average B and turn the basis; see ``Strategy.aggregate``."""
        result = mean_of_one(plan.current, updates, "B", self.weighting)
        for module in pair_names(result):
            product = factors_of(result, module)
            turned = refactored(product, product.rank, self.row_norm)
            if turned is not None:
                put(result, factor_names(module), turned)
        return result
