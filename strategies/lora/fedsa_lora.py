"""FedSA-LoRA: A is shared, every client keeps a B of its own.

Guo et al. 2024, arXiv 2410.01463.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fl2ora.clip_tuning.adapter import Adapter, as_adapter, check_finite
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.client_rule import ClientRule, LocalStart, put_values
from fl2ora.strategies.lora._lora_strategy import LoRAStrategy
from fl2ora.strategies.lora.lora_one_factor import mean_of_one, one_factor
from fl2ora.strategies.updates import ClientUpdate, WeightedMean


class FedSALoRA(LoRAStrategy):
    """Clients train both factors from the common A and their own B; A is the mean of the A_k.

    A client that takes part for the first time starts from the B it is sent. The B of the global
    adapter is no client's: with ``share_b`` it is the mean of the B_k, so that its held-out metrics
    say something, else it stays what it was at the start, zero as a rule, and they are zero-shot's.
    The clients' own models are measured as ``clients-test-personal``.

    Args:
        share_b: whether clients send their B for that mean; their training does not use it once
            they have one of their own.
        weighting: ``examples`` or ``uniform``.
    """

    personal_rule = "fedsa_lora"

    def __init__(self, share_b: bool = True, weighting: str = "examples") -> None:
        super().__init__(weighting)
        self.share_b = share_b
        self.allows_feedback = not share_b  # B is sent as all that sets it apart from the mean

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Send the client half, which keeps B on the node; see ``Strategy.plan``."""
        plan = super().plan(server_round, current, clients)
        return replace(plan, rule=f"fedsa_lora(share_b={self.share_b!r})")

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Average A, and B where it is shared; see ``Strategy.aggregate``."""
        if self.share_b:
            return WeightedMean.of(updates, self.weighting).result()
        return mean_of_one(plan.current, updates, "A", self.weighting)


class FedSALoRARule(ClientRule):
    """Puts the node's own B in place of the received one, and keeps it afterwards.

    Args:
        share_b: else the received B is what is sent back.
    """

    def __init__(self, share_b: bool = True) -> None:
        self.share_b = share_b

    def begin(self, start: LocalStart) -> None:
        """Take up the node's own B, if it has one."""
        self._received = start.received
        self._personal = {name: start.tuned[name] for name in one_factor(start.tuned, "B")}
        put_values(self._personal, start.state)

    def finish(self, steps: int) -> tuple[Adapter, Adapter]:
        """Return nothing to send beside the adapter, and B to keep.

        Raises:
            AdapterError: training diverged; the node keeps its old B.
        """
        own = as_adapter(self._personal)
        check_finite(own, "B")
        if not self.share_b:
            put_values(self._personal, self._received)
        return {}, own

    def personal(self, received: Adapter, state: Adapter) -> Adapter:
        """Return the common A with the client's own B."""
        return {**received, **state}
