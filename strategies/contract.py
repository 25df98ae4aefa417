"""What every strategy promises, as a check to run on yours.

    from fl2ora.strategies.contract import check_strategy
    check_strategy("my_module:MyStrategy(alpha=0.5)")

It runs the strategy with its client half over a few toy clients, and raises an AssertionError that
says which promise is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes

from fl2ora.clip_tuning.adapter import Adapter, AdapterError, as_adapter, check_finite, check_like
from fl2ora.experiment.plugins import load
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.toy_clients import START, play_round, toy_clients
from fl2ora.strategies.updates import ClientUpdate

Make = Callable[[], Strategy]


def check_strategy(
    strategy: str | Make,
    *,
    averages: bool = True,
    start: Adapter | None = None,
) -> None:
    """Check a strategy and its client half.

    Args:
        strategy: a spec string, or something that returns a new strategy at every call.
        averages: whether one client's result becomes the first global adapter, unchanged; false
            for a strategy that takes steps of its own.
        start: the global adapter to begin with; by default a small one.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """

    def make() -> Strategy:
        return load(strategy, Strategy) if isinstance(strategy, str) else strategy()

    first = as_adapter(START if start is None else start)
    make().check(first)
    _check_shapes(make, first)
    _check_determinism(make, first)
    _check_state(make, first)
    _check_equal_clients(make, first)
    if averages:
        _check_one_client(make, first)


def _new(make: Make, num_clients: int) -> Strategy:
    strategy = make()
    strategy.num_clients = num_clients
    return strategy


def _aggregate(
    strategy: Strategy, server_round: int, current: Adapter, updates: Sequence[ClientUpdate]
) -> Adapter:
    """Aggregate a stream, as the round loop does."""
    for update in updates:
        strategy.check_update(update)
    return as_adapter(strategy.aggregate(server_round, current, iter(updates)))


def _check_shapes(make: Make, start: Adapter) -> None:
    """Names, shapes and finite values are kept; arguments are not changed."""
    clients = toy_clients(start)
    strategy = _new(make, len(clients))
    updates = play_round(strategy, 1, start, clients)
    before = as_adapter(start), [as_adapter(update.adapter) for update in updates]
    result = _aggregate(strategy, 1, start, updates)
    try:
        check_like(result, start, "aggregate")
        check_finite(result, "aggregate")
    except AdapterError as error:
        raise AssertionError(f"names, shapes and values: {error}") from None
    after = start, [update.adapter for update in updates]
    same = _equal(before[0], after[0]) and all(map(_equal, before[1], after[1]))
    assert same, "aggregate changed the adapters it was given"


def _check_determinism(make: Make, start: Adapter) -> None:
    """Equal rounds give equal adapters, in whatever order clients answer."""
    results = []
    for backwards in (False, False, True):
        clients = toy_clients(start)
        strategy, current = _new(make, len(clients)), start
        for server_round in (1, 2, 3):
            chosen = clients[server_round % 2 :]  # not everyone takes part in every round
            updates = play_round(strategy, server_round, current, chosen)
            ordered = updates[::-1] if backwards else updates
            current = _aggregate(strategy, server_round, current, ordered)
        results.append(current)
    assert _equal(results[0], results[1]), "determinism: equal rounds gave different adapters"
    assert _equal(results[0], results[2]), "determinism: the order of answers changed the adapter"


def _check_state(make: Make, start: Adapter) -> None:
    """A strategy that is saved and loaded goes on as if nothing had happened."""
    clients = toy_clients(start)
    strategy, current = _new(make, len(clients)), start
    for server_round in (1, 2):
        updates = play_round(strategy, server_round, current, clients)
        current = _aggregate(strategy, server_round, current, updates)
    state = strategy.state()
    assert all(t.dtype == torch.float32 for t in state.values()), "state: expected float32 tensors"
    resumed = _new(make, len(clients))
    resumed.load_state(load_bytes(save_bytes(as_adapter(state))))
    assert _equal(as_adapter(state), as_adapter(resumed.state())), (
        "state: loading what state() returned gives another state"
    )
    twins = [replace(client, state=as_adapter(client.state)) for client in clients]
    following = [
        _aggregate(server, 3, current, play_round(server, 3, current, nodes))
        for server, nodes in ((strategy, clients), (resumed, twins))
    ]
    assert _equal(*following), "state: after loading it, the next round differs"


def _check_equal_clients(make: Make, start: Adapter) -> None:
    """Three equal clients are one."""
    model = toy_clients(start)[1]
    results = []
    for keys in (["a"], ["a", "b", "c"]):
        clients = [replace(model, key=key, state={}) for key in keys]
        strategy, current = _new(make, len(clients)), start
        for server_round in (1, 2):
            updates = play_round(strategy, server_round, current, clients)
            current = _aggregate(strategy, server_round, current, updates)
        results.append(current)
    gap = _largest_gap(*results)
    assert gap < 1e-5, f"equal clients: three give another adapter than one, by {gap:.3g}"


def _check_one_client(make: Make, start: Adapter) -> None:
    """A single client's result is the first global adapter."""
    strategy = _new(make, 1)
    updates = play_round(strategy, 1, start, toy_clients(start)[:1])
    gap = _largest_gap(_aggregate(strategy, 1, start, updates), updates[0].adapter)
    assert gap < 1e-6, f"one client: the adapter is not the client's, it differs by {gap:.3g}"


def _equal(left: Adapter, right: Adapter) -> bool:
    return left.keys() == right.keys() and all(torch.equal(t, right[n]) for n, t in left.items())


def _largest_gap(left: Adapter, right: Adapter) -> float:
    return max((float((t - right[n]).abs().max()) for n, t in left.items()), default=0.0)
