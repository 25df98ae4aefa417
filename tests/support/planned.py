"""Rounds of a strategy without clients: a run begun, a plan for given updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.base import RoundPlan, RunInfo, Strategy
from fl2ora.strategies.updates import ClientUpdate

S = TypeVar("S", bound=Strategy)


def begun(
    strategy: S, clients: Sequence[str], initial: Adapter, ranks: Mapping[str, int] | None = None
) -> S:
    """Return the strategy, told of a run; a text stands for clients of one letter each."""
    strategy.begin(RunInfo(tuple(clients), initial, ranks or {}))
    return strategy


def plan_of(updates: Sequence[ClientUpdate], current: Adapter, server_round: int = 1) -> RoundPlan:
    """Return the plan of a round in which all were sent the global adapter, and no more."""
    return RoundPlan(server_round, current, tuple(update.client for update in updates))


def combine(
    strategy: Strategy,
    current: Adapter,
    updates: Sequence[ClientUpdate],
    server_round: int = 1,
) -> Adapter:
    """Return what a strategy makes of a stream of updates in such a round."""
    return strategy.aggregate(plan_of(updates, current, server_round), iter(updates))
