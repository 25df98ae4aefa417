"""A strategy around another one: everything it does not change is the inner strategy's."""

from __future__ import annotations

from collections.abc import Iterable

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.plugins import load
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.updates import ClientUpdate

_TOLD = ("num_clients", "server_round", "clients", "client_ranks")


class Wrapping(Strategy):
    """Delegates to the strategy that ``inner`` names.

    Args:
        inner: spec of one of our strategies, or ``module:Class(...)``.
    """

    def __init__(self, inner: str) -> None:
        self._inner = load(inner, Strategy)
        self.needs_plain_sgd = self._inner.needs_plain_sgd

    @property
    def inner(self) -> Strategy:
        """The inner strategy, told what the round loop told this one."""
        for name in _TOLD:
            setattr(self._inner, name, getattr(self, name))
        return self._inner

    def aggregate(
        self, server_round: int, current: Adapter, updates: Iterable[ClientUpdate]
    ) -> Adapter:
        """Let the inner strategy aggregate; see ``Strategy.aggregate``."""
        return self.inner.aggregate(server_round, current, updates)

    def check(self, adapter: Adapter) -> None:
        """Let the inner strategy check the initial adapter."""
        self.inner.check(adapter)

    def broadcast(self) -> Adapter:
        """Return the inner strategy's tensors."""
        return self.inner.broadcast()

    def outgoing(self, client: str, current: Adapter) -> Adapter:
        """Return the inner strategy's start of one client."""
        return self.inner.outgoing(client, current)

    def check_update(self, update: ClientUpdate) -> None:
        """Let the inner strategy check."""
        self.inner.check_update(update)

    def metrics(self) -> dict[str, float]:
        """Return the inner strategy's figures."""
        return self.inner.metrics()

    def state(self) -> Adapter:
        """Return the inner strategy's state."""
        return self.inner.state()

    def load_state(self, state: Adapter) -> None:
        """Load the inner strategy's state."""
        self.inner.load_state(state)
