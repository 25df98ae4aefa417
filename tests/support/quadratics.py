"""The federation of two quadratics, (x - 1)^2 / 2 and 3 (x - 5)^2 / 2, with its optimum at 4."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.strategies.base import RunInfo, Strategy
from fl2ora.strategies.toy_clients import ToyClient, play_round
from fl2ora.strategies.updates import ClientUpdate


def scalar(value: float) -> Adapter:
    return {"x": torch.tensor([value])}


def two_clients(steps: int = 50, learning_rate: float = 0.3) -> list[ToyClient]:
    """Return the two clients; by default they solve their problems to float32 precision."""
    return [
        ToyClient(key, scalar(target), weight=weight, steps=steps, learning_rate=learning_rate)
        for key, target, weight in (("a", 1.0, 1.0), ("b", 5.0, 3.0))
    ]


def one_round(
    strategy: Strategy,
    server_round: int,
    current: Adapter,
    clients: Sequence[ToyClient],
    lost: Sequence[str] = (),
) -> tuple[Adapter, list[ClientUpdate]]:
    """Play a round; the replies of ``lost`` clients do not arrive."""
    plan = strategy.plan(server_round, current, [client.key for client in clients])
    updates = play_round(plan, clients)
    arrived = [update for update in updates if update.client not in lost]
    for update in arrived:
        strategy.check_update(plan, update)
    return as_adapter(strategy.aggregate(plan, iter(arrived))), updates


def play(
    strategy: Strategy, rounds: int, clients: Sequence[ToyClient], start: float = 0.0
) -> float:
    """Return x after some rounds of all clients."""
    current = scalar(start)
    strategy.begin(RunInfo(tuple(client.key for client in clients), current))
    for server_round in range(1, rounds + 1):
        current, _ = one_round(strategy, server_round, current, clients)
    return current["x"].item()
