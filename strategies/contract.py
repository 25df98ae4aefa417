"""What every strategy promises, as a check to run on yours.

    from fl2ora.strategies.contract import check_strategy
    check_strategy("my_module:MyStrategy(alpha=0.5)")

It runs the strategy with its client half over a few toy clients, and raises an AssertionError that
says which promise is broken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes

from fl2ora.clip_tuning.adapter import Adapter, AdapterError, as_adapter, check_finite, check_like
from fl2ora.experiment.plugins import load
from fl2ora.strategies.base import RoundPlan, RunInfo, Strategy
from fl2ora.strategies.toy_clients import START, ToyClient, play_round, toy_clients
from fl2ora.strategies.updates import RESERVED_METRICS, ClientUpdate

Make = Callable[[], Strategy]


def check_strategy(
    strategy: str | Make,
    *,
    averages: bool = True,
    alike: bool = True,
    start: Adapter | None = None,
) -> None:
    """Check a strategy and its client half.

    Args:
        strategy: a spec string, or something that returns a new strategy at every call. Clients
            that it names are called ``0`` to ``3``, and on where it needs more of them.
        averages: whether one client's result becomes the first global adapter, unchanged; false
            for a strategy that takes steps of its own.
        alike: whether three equal clients are as one; false for a strategy that names clients, or
            that adds noise.
        start: the global adapter to begin with; by default a small one.

    Raises:
        AssertionError: a promise is broken; the message says which.
        UserError: the strategy refuses the adapter or the clients.
    """

    def make() -> Strategy:
        return load(strategy, Strategy) if isinstance(strategy, str) else strategy()

    first = as_adapter(START if start is None else start)
    _check_plan(make, first)
    _check_result(make, first)
    _check_determinism(make, first)
    _check_state(make, first)
    if alike:
        _check_equal_clients(make, first)
    if averages:
        _check_one_client(make, first)


def _clients(make: Make, start: Adapter) -> list[ToyClient]:
    """Return at least four toy clients, so many that one may be missing in a round."""
    return toy_clients(start, max(4, make().least_updates + 1))


def _after_begin(make: Make, start: Adapter, clients: Sequence[ToyClient]) -> Strategy:
    strategy = make()
    strategy.begin(RunInfo(_keys(clients), start))
    return strategy


def _keys(clients: Sequence[ToyClient]) -> tuple[str, ...]:
    return tuple(client.key for client in clients)


def _round(
    strategy: Strategy,
    server_round: int,
    current: Adapter,
    clients: Sequence[ToyClient],
    backwards: bool = False,
) -> Adapter:
    """Play a round and aggregate a stream, as the round loop does."""
    plan = strategy.plan(server_round, current, _keys(clients))
    updates = play_round(plan, clients)
    return _aggregate(strategy, plan, updates[::-1] if backwards else updates)


def _aggregate(strategy: Strategy, plan: RoundPlan, updates: Sequence[ClientUpdate]) -> Adapter:
    for update in updates:
        strategy.check_update(plan, update)
    return as_adapter(strategy.aggregate(plan, iter(updates)))


def _check_plan(make: Make, start: Adapter) -> None:
    """The plan is of this round; every client starts from the global adapter's names and shapes."""
    clients = _clients(make, start)
    chosen = _keys(clients)[1:]
    plan = _after_begin(make, start, clients).plan(2, start, chosen)
    assert (plan.round, plan.clients) == (2, chosen), (
        f"plan: expected round 2 of clients {chosen}, found {plan.round} of {plan.clients}"
    )
    for client in chosen:
        try:
            check_like(plan.start_of(client), start, f"plan: start of client {client!r}")
        except AdapterError as error:
            raise AssertionError(str(error)) from None
        assert _equal(plan.start_of(client), plan.start_of(client)), (
            f"plan: the start of client {client!r} differs when asked for again"
        )


def _check_result(make: Make, start: Adapter) -> None:
    """Names, shapes and finite values are kept; arguments are not changed; metrics are sound."""
    clients = _clients(make, start)
    strategy = _after_begin(make, start, clients)
    assert 1 <= strategy.least_updates <= len(clients), (
        f"least_updates: expected at least 1, found {strategy.least_updates}"
    )
    fewest = clients[: strategy.least_updates]
    plan = strategy.plan(1, start, _keys(fewest))
    updates = play_round(plan, fewest)
    before = as_adapter(start), [as_adapter(update.adapter) for update in updates]
    result = _aggregate(strategy, plan, updates)
    try:
        check_like(result, start, "aggregate")
        check_finite(result, "aggregate")
    except AdapterError as error:
        raise AssertionError(f"names, shapes and values: {error}") from None
    after = start, [update.adapter for update in updates]
    same = _equal(before[0], after[0]) and all(map(_equal, before[1], after[1]))
    assert same, "aggregate changed the adapters it was given"
    _check_metrics(strategy)
    spent = strategy.spent()
    sound = spent is None or (isinstance(spent, (int, float)) and spent >= 0)
    assert sound, f"spent: expected None or a number of at least 0, found {spent!r}"


def _check_metrics(strategy: Strategy) -> None:
    for name, value in strategy.metrics().items():
        assert name not in RESERVED_METRICS, f"metrics: the name {name!r} is the record's own"
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        finite = number and math.isfinite(value)
        assert finite, f"metrics: {name}: expected a finite number, found {value!r}"


def _check_determinism(make: Make, start: Adapter) -> None:
    """Equal rounds give equal adapters, in whatever order clients answer."""
    results = []
    for backwards in (False, False, True):
        clients = _clients(make, start)
        strategy, current = _after_begin(make, start, clients), start
        for server_round in (1, 2, 3):
            chosen = clients[server_round % 2 :]  # not everyone takes part in every round
            current = _round(strategy, server_round, current, chosen, backwards)
        results.append(current)
    assert _equal(results[0], results[1]), "determinism: equal rounds gave different adapters"
    assert _equal(results[0], results[2]), "determinism: the order of answers changed the adapter"


def _check_state(make: Make, start: Adapter) -> None:
    """A strategy that is saved and loaded goes on as if nothing had happened."""
    clients = _clients(make, start)
    strategy, current = _after_begin(make, start, clients), start
    for server_round in (1, 2):
        current = _round(strategy, server_round, current, clients)
    state = strategy.state()
    assert all(t.dtype == torch.float32 for t in state.values()), "state: expected float32 tensors"
    resumed = _after_begin(make, start, clients)
    resumed.load_state(load_bytes(save_bytes(as_adapter(state))))
    assert _equal(as_adapter(state), as_adapter(resumed.state())), (
        "state: loading what state() returned gives another state"
    )
    twins = [replace(client, state=as_adapter(client.state)) for client in clients]
    following = [
        _round(server, 3, current, nodes)
        for server, nodes in ((strategy, clients), (resumed, twins))
    ]
    assert _equal(*following), "state: after loading it, the next round differs"


def _check_equal_clients(make: Make, start: Adapter) -> None:
    """Three times as many equal clients change nothing."""
    few = make().least_updates
    results = []
    for count in (few, 3 * few):
        clients = _equal_clients(start, count)
        strategy, current = _after_begin(make, start, clients), start
        for server_round in (1, 2):
            current = _round(strategy, server_round, current, clients)
        results.append(current)
    gap = _largest_gap(*results)
    assert gap < 1e-5, f"equal clients: {3 * few} give another adapter than {few}, by {gap:.3g}"


def _check_one_client(make: Make, start: Adapter) -> None:
    """A single client's result, or that of the fewest equal ones, is the first global adapter."""
    clients = _clients(make, start)
    strategy = _after_begin(make, start, clients)
    same = _equal_clients(start, strategy.least_updates)
    plan = strategy.plan(1, start, _keys(same))
    updates = play_round(plan, same)
    gap = _largest_gap(_aggregate(strategy, plan, updates), updates[0].adapter)
    assert gap < 1e-6, f"one client: the adapter is not the client's, it differs by {gap:.3g}"


def _equal_clients(start: Adapter, count: int) -> list[ToyClient]:
    model = toy_clients(start)[1]
    return [replace(model, key=str(index), state={}) for index in range(count)]


def _equal(left: Adapter, right: Adapter) -> bool:
    return left.keys() == right.keys() and all(torch.equal(t, right[n]) for n, t in left.items())


def _largest_gap(left: Adapter, right: Adapter) -> float:
    return max((float((t - right[n]).abs().max()) for n, t in left.items()), default=0.0)
