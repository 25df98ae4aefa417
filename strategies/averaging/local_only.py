"""Local-only: every client trains by itself; what federation is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fl2ora.clip_tuning.adapter import Adapter, as_adapter, check_finite
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.client_rule import ClientRule, LocalStart, put_values
from fl2ora.strategies.updates import ClientUpdate


class LocalOnly(Strategy):
    """Every client goes on from its own last adapter, and keeps it; nothing is averaged.

    The global adapter stays as it was at the start. The clients' own models are measured as
    ``clients-test-personal``.
    """

    personal_rule = "local_only"

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Send the client half, which keeps the adapter on the node; see ``Strategy.plan``."""
        return replace(super().plan(server_round, current, clients), rule="local_only")

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Return the global adapter as it was; the updates are read, for who counts them."""
        for _ in updates:
            pass
        return plan.current


class LocalOnlyRule(ClientRule):
    """Starts from the node's own adapter, keeps it afterwards, and sends back what it received."""

    def begin(self, start: LocalStart) -> None:
        """Take up the node's own adapter, if it has one."""
        self._tuned, self._received = start.tuned, start.received
        put_values(start.tuned, start.state)

    def finish(self, steps: int) -> tuple[Adapter, Adapter]:
        """Return nothing to send, and the adapter to keep.

        Raises:
            AdapterError: training diverged; the node keeps its old adapter.
        """
        own = as_adapter(self._tuned)
        check_finite(own, "the client's own adapter")
        put_values(self._tuned, self._received)
        return {}, own

    def personal(self, received: Adapter, state: Adapter) -> Adapter:
        """Return the client's own adapter; the one received, where it never trained."""
        return {**received, **state}
