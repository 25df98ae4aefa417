"""The round loop as a fold: one state in, the next one out; callbacks; plug-ins at fault."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.server_app.callbacks.base import Callback, Reaction, RoundReport
from fl2ora.server_app.client_means import ClientMeans
from fl2ora.server_app.round_loop import run_rounds
from fl2ora.server_app.rounds import TRAINING, Run, RunState, run_round
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.base import RoundPlan, RunInfo, Strategy
from fl2ora.strategies.robust.median import Median
from fl2ora.strategies.updates import ClientUpdate

START: Adapter = {"x": torch.zeros(2)}


class Log:
    """Keeps what a tracker is told."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.rows: list[tuple[int, str, dict[str, float]]] = []

    def log(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def metrics(self, server_round: int, source: str, values: dict[str, float]) -> None:
        self.rows.append((server_round, source, dict(values)))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [found for found in self.events if found["event"] == event]


class ThreeClients:
    """Clients a, b and c with 1, 2 and 3 images; each adds its number of images to every value."""

    keys = ("a", "b", "c")
    bytes_down: Sequence[int] = ()
    bytes_up: Sequence[int] = ()

    def __init__(self, silent: frozenset[str] = frozenset()) -> None:
        self.silent = silent
        self.plans: list[RoundPlan] = []

    def await_some(self, clients: Sequence[str], least: int, number: int, ends: object) -> int:
        return len(clients)

    def train(self, plan: RoundPlan, strategy: Strategy) -> Iterator[ClientUpdate]:
        self.plans.append(plan)
        for key in plan.clients:
            if key not in self.silent:
                size = self.keys.index(key) + 1
                adapter = {n: t + size for n, t in plan.start_of(key).items()}
                yield ClientUpdate(key, adapter, size, {"loss": 1.0 / size})


class Measured:
    """Stands for the evaluation; the metric is the first value of the adapter."""

    def __init__(self) -> None:
        self.rounds: list[int] = []
        self.whole: list[bool] = []

    def measure(
        self, number: int, adapter: Adapter, *, whole: bool = True
    ) -> dict[str, dict[str, float]]:
        self.rounds.append(number)
        self.whole.append(whole)
        return {"server-test": {"accuracy": float(adapter["x"][0])}}


def make_run(
    *callbacks: Callback,
    strategy: Strategy | None = None,
    clients: ThreeClients | None = None,
    **settings: Any,
) -> tuple[Run, Log, Measured]:
    log, measured = Log(), Measured()
    config = RunConfig(**{"num_rounds": 3, **settings})
    context = SimpleNamespace(
        config=config, tracker=log, evaluation=measured, folder=Path(), classifier=None
    )
    chosen = strategy or FedAvg()
    chosen.begin(RunInfo(ThreeClients.keys, START, {}))
    run = Run(context, clients or ThreeClients(), chosen, callbacks)  # type: ignore[arg-type]
    return run, log, measured


def test_the_loop_is_the_fold_of_its_rounds() -> None:
    run, _, _ = make_run()
    state = RunState(0, START)
    for _ in range(3):
        state = run_round(state, run)
    whole = run_rounds(RunState(0, START), make_run()[0])
    # One round moves every value by (1*1 + 2*2 + 3*3) / 6 = 14/6.
    assert torch.allclose(state.adapter["x"], torch.full((2,), 7.0))
    assert torch.equal(whole.adapter["x"], state.adapter["x"])
    assert (whole.round, whole.updates, whole.stop) == (3, 9, "")
    assert [dict(row) for row in whole.history] == [dict(row) for row in state.history]


def test_a_round_changes_nothing_of_the_state_it_is_given() -> None:
    run, _, _ = make_run()
    before = RunState(0, START)
    run_round(before, run)
    assert before == RunState(0, START)
    assert torch.equal(START["x"], torch.zeros(2))


def test_losses_are_weighted_by_images_and_everything_is_on_record() -> None:
    run, log, _ = make_run(num_rounds=1)
    state = run_rounds(RunState(0, START), run)
    number, source, values = log.rows[0]
    # (1*1 + 2*1/2 + 3*1/3) / 6 = 1/2.
    assert (number, source) == (1, TRAINING)
    assert values == {"clients": 3.0, "num-examples": 6.0, "loss": 0.5}
    assert state.history[0] == {"round": 1, "source": TRAINING, **values}
    assert log.of("round-start")[0]["clients"] == ["a", "b", "c"]


def test_a_loss_that_a_client_does_not_report_has_no_mean() -> None:
    means, plan = ClientMeans(), RoundPlan(1, START, ("a", "b"))
    means.on_update(plan, ClientUpdate("a", START, 3, {"loss": 1.0, "loss_dca": 4.0, "steps": 9.0}))
    assert means.result() == {"clients": 1.0, "num-examples": 3.0, "loss": 1.0, "loss_dca": 4.0}
    means.on_update(plan, ClientUpdate("b", START, 1, {"loss": 5.0}))
    assert means.result() == {"clients": 2.0, "num-examples": 4.0, "loss": 2.0}


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3]), (2, [2, 3]), (5, [3])])
def test_the_last_round_is_always_measured(every: int, expected: list[int]) -> None:
    run, _, measured = make_run(eval_every=every)
    run_rounds(RunState(0, START), run)
    assert measured.rounds == expected


def test_a_run_goes_on_from_a_saved_state() -> None:
    whole = run_rounds(RunState(0, START), make_run()[0])
    first = run_round(RunState(0, START), make_run()[0])
    run, _, _ = make_run()
    run.load(first)
    resumed = run_rounds(first, run)
    assert torch.equal(resumed.adapter["x"], whole.adapter["x"])
    assert resumed.history == whole.history
    assert [row["round"] for row in resumed.history if row["source"] == TRAINING] == [1, 2, 3]


class Remembers(FedAvg):
    """Counts its rounds, and reports how many there were."""

    rounds = 0.0

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        self.rounds += 1
        return super().aggregate(plan, updates)

    def metrics(self) -> dict[str, float]:
        return {"strategy-rounds": self.rounds}

    def state(self) -> Adapter:
        return {"rounds": torch.tensor([self.rounds])}

    def load_state(self, state: Adapter) -> None:
        self.rounds = float(state["rounds"])


def test_what_a_strategy_remembers_is_part_of_the_state() -> None:
    first = run_round(RunState(0, START), make_run(strategy=Remembers())[0])
    assert first.strategy["rounds"].tolist() == [1.0]
    run, _, _ = make_run(strategy=Remembers())
    run.load(first)
    assert run_rounds(first, run).strategy["rounds"].tolist() == [3.0]


def test_a_strategys_metrics_stand_with_those_of_training() -> None:
    run, log, _ = make_run(strategy=Remembers(), num_rounds=2)
    run_rounds(RunState(0, START), run)
    rows = [values for _, source, values in log.rows if source == TRAINING]
    assert [row["strategy-rounds"] for row in rows] == [1.0, 2.0]
    assert [row["loss"] for row in rows] == [0.5, 0.5]


def test_sampling_follows_the_seed_and_the_round() -> None:
    def drawn(seed: int) -> list[tuple[str, ...]]:
        clients = ThreeClients()
        run, _, _ = make_run(clients=clients, seed=seed, num_rounds=8, fraction_train=0.34)
        run_rounds(RunState(0, START), run)
        return [plan.clients for plan in clients.plans]

    assert all(len(chosen) == 1 for chosen in drawn(0))
    assert drawn(0) == drawn(0)
    assert len(set(drawn(0))) > 1
    assert drawn(0) != drawn(1)


def test_only_clients_that_were_chosen_count_as_asked() -> None:
    run, _, _ = make_run(clients=ThreeClients(silent=frozenset("b")), fraction_train=0.67)
    state = run_rounds(RunState(0, START), run)
    used = [row["clients"] for row in state.history if row["source"] == TRAINING]
    assert (state.asked, state.updates) == (6, sum(used))
    assert state.updates < state.asked, "with this seed b is chosen once at least"
    assert state.last == (used[-1], 2)


def test_with_too_few_updates_the_adapter_stays() -> None:
    clients = ThreeClients(silent=frozenset("ab"))
    strategy = Remembers()
    run, log, _ = make_run(clients=clients, strategy=strategy, min_train_clients=2, num_rounds=1)
    state = run_rounds(RunState(0, START), run)
    assert torch.equal(state.adapter["x"], START["x"])
    # The strategy's numbers would be those of an earlier round.
    assert log.rows[0] == (1, TRAINING, {"clients": 1.0, "num-examples": 3.0, "loss": 1 / 3})
    assert log.of("adapter-kept") == [
        {"event": "adapter-kept", "round": 1, "usable": 1, "expected": 2}
    ]


class Least(FedAvg):
    least_updates = 2


def test_a_strategy_may_ask_for_more_updates_than_the_run() -> None:
    clients = ThreeClients(silent=frozenset("ab"))
    run, log, _ = make_run(clients=clients, strategy=Least(), num_rounds=1, fraction_train=0.1)
    run_rounds(RunState(0, START), run)
    assert len(clients.plans[0].clients) == 2
    assert log.of("adapter-kept")[0]["expected"] == 2


class Told(Callback):
    """Notes what it sees under its name."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def on_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        self.notes.append(f"{self.name} sees {update.client}")

    def after_training(self, report: RoundReport) -> Reaction:
        self.notes.append(f"{self.name} after training {sorted(report.metrics)}")
        return Reaction({self.name: 1.0})

    def after_round(self, report: RoundReport) -> None:
        self.notes.append(f"{self.name} after round {sorted(report.metrics)}")


def test_callbacks_are_asked_in_their_order_and_see_what_others_added() -> None:
    notes: list[str] = []
    run, log, _ = make_run(Told("one", notes), Told("two", notes), num_rounds=1)
    run_rounds(RunState(0, START), run)
    assert notes == [
        *(f"{name} sees {key}" for key in "abc" for name in ("one", "two")),
        "one after training ['training']",
        "two after training ['training']",
        "one after round ['server-test', 'training']",
        "two after round ['server-test', 'training']",
    ]
    assert log.rows[0][2].keys() >= {"one", "two", "loss"}


class Replaces(Callback):
    def after_training(self, report: RoundReport) -> Reaction:
        return Reaction(adapter={"x": torch.full((2,), 9.0)})


def test_a_callback_may_replace_the_adapter_before_it_is_measured() -> None:
    run, log, _ = make_run(Replaces(), num_rounds=1)
    state = run_rounds(RunState(0, START), run)
    assert torch.equal(state.adapter["x"], torch.full((2,), 9.0))
    assert log.rows[1] == (1, "server-test", {"accuracy": 9.0})


class Stops(Callback):
    def after_round(self, report: RoundReport) -> Reaction | None:
        return Reaction(stop="enough") if report.plan.round == 2 else None


def test_a_callback_may_end_the_run_which_is_measured_then() -> None:
    run, log, measured = make_run(Stops(), eval_every=3)
    state = run_rounds(RunState(0, START), run)
    assert (state.round, state.stop) == (2, "enough")
    assert measured.rounds == [2]
    assert log.of("stopped") == [{"event": "stopped", "round": 2, "reason": "enough"}]


def test_the_last_round_is_measured_whole_and_one_that_turns_out_to_be_the_last_again() -> None:
    run, _, measured = make_run()
    run_rounds(RunState(0, START), run)
    assert measured.whole == [False, False, True]
    run, log, measured = make_run(Stops(), eval_share=0.5)
    run_rounds(RunState(0, START), run)
    assert list(zip(measured.rounds, measured.whole, strict=True)) == [
        (1, False), (2, False), (2, True),
    ]  # fmt: skip
    assert [row[:2] for row in log.rows].count((2, "server-test")) == 1
    run, _, measured = make_run(StopsBefore(), eval_share=0.5)
    run_rounds(RunState(0, START), run)
    assert measured.whole == [False, True]
    failing = Fails({2, 3})
    run, _, measured = make_run(clients=failing, num_rounds=9, max_idle_rounds=2, eval_share=0.5)
    state = run_rounds(RunState(0, START), run)
    assert list(zip(measured.rounds, measured.whole, strict=True))[-2:] == [(3, False), (3, True)]
    rows = [(row["round"], row["source"]) for row in state.history]
    assert len(rows) == len(set(rows)) > 3


class StopsToo(Callback):
    def after_round(self, report: RoundReport) -> Reaction | None:
        return Reaction(stop="too much") if report.plan.round == 2 else None


def test_the_first_reason_to_end_is_the_one_on_record() -> None:
    run, log, _ = make_run(Stops(), StopsToo())
    assert run_rounds(RunState(0, START), run).stop == "enough"
    assert [event["reason"] for event in log.of("stopped")] == ["enough"]


class StopsBefore(Callback):
    """Wants to end the run after the training of round 2, before it is measured."""

    def after_training(self, report: RoundReport) -> Reaction | None:
        return Reaction(stop="diverged") if report.plan.round == 2 else Reaction()


@pytest.mark.parametrize("order", [(StopsBefore, Told), (Told, StopsBefore)])
def test_a_stop_after_training_is_measured_and_outlives_what_others_say(
    order: tuple[type[Callback], ...],
) -> None:
    callbacks = [kind("told", []) if kind is Told else kind() for kind in order]  # type: ignore[call-arg]
    run, _, measured = make_run(*callbacks, eval_every=3)
    state = run_rounds(RunState(0, START), run)
    assert (state.round, state.stop) == (2, "diverged")
    assert measured.rounds == [2]


class Counts(Callback):
    def __init__(self) -> None:
        self.seen = 0

    def on_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        self.seen += 1

    def state(self) -> Adapter:
        return {"seen": torch.tensor([float(self.seen)])}

    def load_state(self, state: Adapter) -> None:
        self.seen = int(state["seen"])


def test_what_callbacks_remember_is_part_of_the_state() -> None:
    state = run_round(RunState(0, START), make_run(Counts())[0])
    counts = Counts()
    run, _, _ = make_run(counts)
    run.load(state)
    assert counts.seen == 3
    assert run_rounds(state, run).callbacks[0]["seen"].tolist() == [9.0]


class Broken(Strategy):
    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        list(updates)
        return {"x": 1 / 0}  # type: ignore[dict-item]


class NotANumber(Strategy):
    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        list(updates)
        return {"x": torch.tensor([1.0, float("nan")])}


class WrongShape(Strategy):
    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        list(updates)
        return {"x": torch.zeros(3)}


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (Broken(), ["test_rounds:Broken", "division by zero", "test_rounds.py:"]),
        (NotANumber(), ["test_rounds:NotANumber", "x has 1 of 2 values not finite"]),
        (WrongShape(), ["test_rounds:WrongShape", "x has shape (3,), expected (2,)"]),
    ],
)
def test_a_strategy_at_fault_is_named_with_file_and_line(
    strategy: Strategy, words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        run_rounds(RunState(0, START), make_run(strategy=strategy)[0])
    for word in words:
        assert word in str(caught.value)


class FailsOnUpdate(Callback):
    def on_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        raise KeyError("clien")


class FailsInState(Callback):
    def state(self) -> Adapter:
        raise KeyError("clien")


@pytest.mark.parametrize("callback", [FailsOnUpdate(), FailsInState()])
def test_a_callback_at_fault_is_named_with_file_and_line(callback: Callback) -> None:
    with pytest.raises(UserError) as caught:
        run_rounds(RunState(0, START), make_run(callback)[0])
    name = type(callback).__name__
    for word in (f"test_rounds:{name}: KeyError: 'clien'", "test_rounds.py:"):
        assert word in str(caught.value)


class PlansNothing(FedAvg):
    def plan(self, server_round: int, current: Adapter, clients: Any) -> RoundPlan:
        return None  # type: ignore[return-value]


class AsksStrangers(FedAvg):
    def plan(self, server_round: int, current: Adapter, clients: Any) -> RoundPlan:
        return RoundPlan(server_round, current, ("a", "stranger"))


class RemembersNumbers(FedAvg):
    def state(self) -> Adapter:
        return {"count": 3}  # type: ignore[dict-item]


class Reports(FedAvg):
    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found

    def metrics(self) -> dict[str, float]:
        return self.found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (PlansNothing(), ["PlansNothing", "plan: expected a RoundPlan, found NoneType"]),
        (AsksStrangers(), ["AsksStrangers", "no clients of this run: stranger"]),
        (
            RemembersNumbers(),
            ["RemembersNumbers", "TypeError: expected tensors by name"],
        ),
        (Reports({"round": 7}), ["Reports", "the name 'round' is the record's own"]),
        (Reports({"source": "x"}), ["Reports", "the name 'source' is the record's own"]),
        (Reports({"x": "many"}), ["Reports", "x: expected a number, found str"]),
        (Reports({"x": torch.tensor(1.0)}), ["Reports", "x: expected a number, found Tensor"]),
        (Reports({3: 1.0}), ["Reports", "expected names that are texts, found 3"]),
        (Reports(None), ["Reports", "expected numbers by name, found NoneType"]),
    ],
)
def test_what_a_strategy_returns_is_checked(strategy: Strategy, words: list[str]) -> None:
    run, _, _ = make_run(strategy=strategy)
    with pytest.raises(UserError) as caught:
        run_rounds(RunState(0, START), run)
    for word in words:
        assert word in str(caught.value)


class Returns(Callback):
    def __init__(self, hook: str, what: Any) -> None:
        self.hook, self.what = hook, what

    def after_training(self, report: RoundReport) -> Reaction | None:
        return self.what if self.hook == "after_training" else None

    def after_round(self, report: RoundReport) -> Reaction | None:
        return self.what if self.hook == "after_round" else None


@pytest.mark.parametrize("hook", ["after_training", "after_round"])
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"x": 1.0}, "expected a Reaction or None, found dict"),
        (Reaction(None), "expected numbers by name, found NoneType"),  # type: ignore[arg-type]
        (Reaction({"round": 7.0}), "the name 'round' is the record's own"),
        (Reaction({"x": "many"}), "x: expected a number, found str"),  # type: ignore[dict-item]
        (Reaction({"x": 10**400}), "int too large"),
    ],
)
def test_what_a_callback_returns_is_checked(hook: str, what: Any, words: str) -> None:
    run, log, _ = make_run(Returns(hook, what))
    with pytest.raises(UserError, match="test_rounds:Returns") as caught:
        run_rounds(RunState(0, START), run)
    assert words in str(caught.value)
    assert not log.rows


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ({}, "missing: x"),
        ({"x": torch.zeros(3)}, "x has shape (3,), expected (2,)"),
        ({"x": torch.tensor([1.0, float("nan")])}, "x has 1 of 2 values not finite"),
    ],
)
def test_an_adapter_of_a_callback_is_checked(adapter: Adapter, words: str) -> None:
    run, _, _ = make_run(Returns("after_training", Reaction(adapter=adapter)))
    with pytest.raises(UserError, match="test_rounds:Returns") as caught:
        run_rounds(RunState(0, START), run)
    assert words in str(caught.value)


def test_no_adapter_takes_the_place_of_one_that_was_measured() -> None:
    run, _, _ = make_run(Returns("after_round", Reaction(adapter={"x": torch.ones(2)})))
    with pytest.raises(UserError, match=r"test_rounds:Returns.*taken in after_training alone"):
        run_rounds(RunState(0, START), run)


def test_numbers_of_numpy_go_on_record_as_plain_ones() -> None:
    found = Reaction({"x": np.float32(0.5), "n": np.int64(3)})
    state = run_rounds(RunState(0, START), make_run(Returns("after_round", found))[0])
    row = state.history[0]
    assert (row["x"], row["n"]) == (0.5, 3.0)
    assert {type(row["x"]), type(row["n"])} == {float}


class RefusesUpdates(Callback):
    def on_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        if update.client == "b":  # in the midst of the strategy's work
            raise ValueError("boom")


class RemembersTexts(Callback):
    def state(self) -> Adapter:
        return {"x": "text"}  # type: ignore[dict-item]


@pytest.mark.parametrize("callback", [RefusesUpdates(), RemembersTexts()])
def test_a_callback_at_fault_is_named_not_the_strategy(callback: Callback) -> None:
    run, _, _ = make_run(callback)
    with pytest.raises(UserError, match=f"test_rounds:{type(callback).__name__}: "):
        run_rounds(RunState(0, START), run)


def test_a_strategy_cannot_rewrite_what_the_clients_reported() -> None:
    strategy = Reports({"loss": 9.0, "clients": 1.0, "mine": 2.0})
    _, log, _ = made = make_run(strategy=strategy, num_rounds=1)
    run_rounds(RunState(0, START), made[0])
    row = log.rows[0][2]
    assert (row["loss"], row["clients"], row["mine"]) == (0.5, 3.0, 2.0)


class ManyClients(ThreeClients):
    """Twenty clients; knows how many of their updates are still held when the next one comes."""

    keys = tuple(f"c{n:02}" for n in range(20))

    def __init__(self) -> None:
        super().__init__()
        self.held: list[int] = []

    def train(self, plan: RoundPlan, strategy: Strategy) -> Iterator[ClientUpdate]:
        sent: list[weakref.ref[torch.Tensor]] = []
        for update in super().train(plan, strategy):
            sent.append(weakref.ref(update.adapter["x"]))
            yield update
            del update
            gc.collect()
            self.held.append(sum(ref() is not None for ref in sent))


@pytest.mark.parametrize(("strategy", "most"), [(FedAvg(), 3), (Median(), 20)])
def test_memory_of_a_round_follows_what_the_strategy_keeps(strategy: Strategy, most: int) -> None:
    clients = ManyClients()
    run, _, _ = make_run(strategy=strategy, clients=clients, num_rounds=1)
    strategy.begin(RunInfo(ManyClients.keys, START, {}))
    run_rounds(RunState(0, START), run)
    assert len(clients.held) == 20
    assert max(clients.held) <= most
    assert (max(clients.held) == 20) == isinstance(strategy, Median)


class Fails(ThreeClients):
    """All are silent in some rounds; ``there`` says how many are online."""

    def __init__(self, rounds: set[int], there: int = 3) -> None:
        super().__init__()
        self.rounds, self.there = rounds, there

    def await_some(self, clients: Sequence[str], least: int, number: int, ends: object) -> int:
        return self.there

    def train(self, plan: RoundPlan, strategy: Strategy) -> Iterator[ClientUpdate]:
        updates = list(super().train(plan, strategy))
        return iter([] if plan.round in self.rounds else updates)


@pytest.mark.parametrize(
    ("silent", "most", "rounds"),
    [
        ({2, 3, 5, 6, 8}, 3, 8),  # never three in a row
        ({2, 3, 5, 6, 7, 8}, 3, 7),
        ({1, 2}, 2, 2),
        (set(range(1, 9)), 0, 8),
    ],
)
def test_a_run_gives_up_after_rounds_in_a_row_without_updates(
    silent: set[int], most: int, rounds: int
) -> None:
    run, log, _ = make_run(clients=Fails(silent), num_rounds=8, max_idle_rounds=most)
    state = run_rounds(RunState(0, START), run)
    assert state.round == rounds
    assert bool(state.gave_up) == bool(log.of("gave-up")) == (rounds < 8)
    assert rounds == 8 or state.gave_up == f"{most} rounds in a row had too few usable updates " \
        "(max-idle-rounds)"  # fmt: skip


def test_the_adapter_a_run_gives_up_with_is_measured() -> None:
    clients = Fails({2, 3})
    run, log, measured = make_run(clients=clients, num_rounds=9, max_idle_rounds=2, eval_every=4)
    state = run_rounds(RunState(0, START), run)
    assert measured.rounds == [3]
    assert log.rows[-1][:2] == (3, "server-test")
    assert state.history[-1]["round"] == 3
    run, _, measured = make_run(clients=clients, num_rounds=9, max_idle_rounds=2)
    run_rounds(RunState(0, START), run)
    assert measured.rounds == [1, 2, 3]


def test_a_run_whose_clients_are_gone_says_how_many_it_needs() -> None:
    clients = Fails(set(), there=1)
    run, _, measured = make_run(clients=clients, min_train_clients=2, start_timeout=5.0)
    state = run_rounds(RunState(0, START), run)
    assert (state.round, measured.rounds, clients.plans) == (0, [], [])
    assert state.gave_up == (
        "1 of the 3 clients of round 1 are online, 2 needed, after 5 s (start-timeout)"
    )
    asked = iter([True, True])
    assert run_rounds(RunState(0, START), run, lambda: next(asked, True)).gave_up == ""
