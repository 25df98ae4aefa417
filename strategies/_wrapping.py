"""A strategy around another one: everything it does not change is the inner strategy's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.experiment.plugins import load
from fl2ora.strategies.base import RoundPlan, RunInfo, Strategy
from fl2ora.strategies.client_rule import ClientRule, LocalStart
from fl2ora.strategies.updates import ClientUpdate

_TRIED_ROUNDS = (1, 2, 10**9)  # some begin without a client half


class Wrapping(Strategy):
    """Delegates to the strategy that ``inner`` names.

    Args:
        inner: spec of one of our strategies, or ``module:Class(...)``.
    """

    def __init__(self, inner: str) -> None:
        self.inner = load(inner, Strategy)
        self.needs_plain_sgd = self.inner.needs_plain_sgd
        self.needs_residual = self.inner.needs_residual
        self.personal_rule = self.inner.personal_rule
        self.least_updates = self.inner.least_updates
        self.allows_feedback = self.inner.allows_feedback

    def accepts(self, optimiser: str, schedule: str, gradient_clip: float = 0.0) -> None:
        """Let the inner strategy look at what clients train with."""
        self.inner.accepts(optimiser, schedule, gradient_clip)

    def begin(self, run: RunInfo) -> None:
        """Let the inner strategy look at the run."""
        self.inner.begin(run)
        self.run = run

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Return the inner strategy's plan."""
        return self.inner.plan(server_round, current, clients)

    def check_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        """Let the inner strategy check."""
        self.inner.check_update(plan, update)

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Let the inner strategy aggregate; see ``Strategy.aggregate``."""
        return self.inner.aggregate(plan, updates)

    def metrics(self) -> dict[str, float]:
        """Return the inner strategy's metrics."""
        return self.inner.metrics()

    def spent(self) -> float | None:
        """Return what the inner strategy's releases cost."""
        return self.inner.spent()

    def state(self) -> Adapter:
        """Return the inner strategy's state."""
        return self.inner.state()

    def load_state(self, state: Adapter) -> None:
        """Load the inner strategy's state."""
        self.inner.load_state(state)

    def unsaved(self) -> tuple[str, ...]:
        """Return what the inner strategy cannot save."""
        return self.inner.unsaved()

    def lost_rounds(self, asked: Sequence[Sequence[str]]) -> None:
        """Tell the inner strategy."""
        self.inner.lost_rounds(asked)


def own_tensors(strategy: Strategy) -> Iterator[tuple[str, Adapter, Adapter]]:
    """Try out a strategy's client half, without training; it has begun.

    Yields:
        The half's spec, the tensors it sends beside the adapter, and those it keeps.
    """
    run = strategy.run
    for server_round in _TRIED_ROUNDS:
        plan = strategy.plan(server_round, run.initial, run.clients)
        if plan.rule:
            rule = load(plan.rule, ClientRule)
            received = as_adapter(run.initial)
            tuned = {name: nn.Parameter(t.clone()) for name, t in received.items()}
            start = LocalStart(tuned, received, as_adapter(plan.aux), {}, 1, learning_rate=1.0)
            rule.begin(start)
            yield plan.rule, *rule.finish(1)
