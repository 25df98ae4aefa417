"""The nodes as the round loop sees them: what each is sent, and what of its answer is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.messages.calibrate import CalibrateTask, encode_sums
from fl2ora.messages.evaluate import (
    TEST,
    VALIDATION,
    EvaluateTask,
    Measured,
    decode_evaluate,
    encode_measured,
)
from fl2ora.messages.hello import NodeInfo, encode_hello
from fl2ora.messages.train import TrainTask, decode_train, encode_update
from fl2ora.server_app.arrivals import Peer
from fl2ora.server_app.clients import Clients
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.updates import ClientUpdate

SPEC = StatsSpec(num_bins=5)
START: Adapter = {"x": torch.zeros(2)}
SIZES = {TEST: 3, VALIDATION: 2}


class Log:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def log(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def metrics(self, server_round: int, source: str, values: dict[str, float]) -> None:
        raise AssertionError("not asked")

    def drops(self) -> list[tuple[str, str]]:
        return [(e["client"], e["reason"]) for e in self.events if e["event"] == "drop"]


class LastFirst(InProcessGrid):
    """Its nodes answer in the opposite order."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        yield from reversed(list(super().pull_messages(message_ids)))


class Node(ClientApp):
    """Adds 1 to what it gets; measures as many images as it says; keeps what it was asked."""

    def __init__(self, alter: Callable[[ClientUpdate], ClientUpdate] = lambda u: u) -> None:
        super().__init__()
        self.tasks: list[TrainTask] = []

        @self.train()
        def train(message: Message, context: Context) -> Message:
            task = decode_train(message)
            self.tasks.append(task)
            adapter = {name: tensor + 1 for name, tensor in task.adapter.items()}
            update = ClientUpdate("?", adapter, context.node_id, {"loss": 0.5})
            return encode_update(message, alter(update))

        @self.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            found = {part: stats(SIZES[part]) for part in decode_evaluate(message).parts}
            return encode_measured(message, "?", Measured(found))

        @self.train("calibrate")
        def calibrate(message: Message, context: Context) -> Message:
            sums = torch.tensor([float(context.node_id)], dtype=torch.float64)
            return encode_sums(message, "?", {"s": sums})


def stats(count: int) -> CalibrationStats:
    logits = torch.tensor([[2.0, 1.0]]).repeat(count, 1)
    return CalibrationStats.from_logits(logits, torch.zeros(count, dtype=torch.int64), SPEC)


def make(app: ClientApp, **settings: Any) -> tuple[Clients, Log]:
    peers = [
        Peer(
            i + 1,
            NodeInfo(key, num_train=i + 1, num_test=SIZES[TEST], num_calibration=SIZES[VALIDATION]),
        )
        for i, key in enumerate("abc")
    ]
    log = Log()
    config = RunConfig(**{"num_rounds": 7, **settings})
    return Clients(LastFirst(app, {}, 3), peers, config, log), log


def plan(starts: dict[str, Adapter] | None = None) -> RoundPlan:
    return RoundPlan(2, START, ("a", "c"), starts=starts.__getitem__ if starts else None)


def test_only_those_asked_train_and_each_update_carries_its_clients_key() -> None:
    app = Node()
    clients, log = make(app)
    updates = list(clients.train(plan(), FedAvg()))
    assert [(u.client, u.num_examples) for u in updates] == [("c", 3), ("a", 1)]
    assert all(torch.equal(u.adapter["x"], torch.ones(2)) for u in updates)
    assert [(t.round, t.num_rounds) for t in app.tasks] == [(2, 7), (2, 7)]
    assert log.events == [
        {"event": "client", "round": 2, "client": u.client, "loss": 0.5,
         "num-examples": u.num_examples} for u in updates
    ]  # fmt: skip


def test_an_update_is_compared_with_what_that_client_was_sent() -> None:
    """Client c starts 100 away from the global adapter, and moves by sqrt(2) like a."""
    starts = {"a": START, "c": {"x": torch.full((2,), 100.0)}}
    clients, log = make(Node(), max_update_norm=1.5)
    assert {u.client for u in clients.train(plan(starts), FedAvg())} == {"a", "c"}
    assert log.drops() == []
    clients, log = make(Node(), max_update_norm=1.4)
    assert list(clients.train(plan(starts), FedAvg())) == []
    assert [client for client, _ in log.drops()] == ["c", "a"]
    # A start of another shape, as lower ranks have it.
    starts["c"] = {"x": torch.zeros(1)}
    clients, log = make(Node())
    assert {u.client: len(u.adapter["x"]) for u in clients.train(plan(starts), FedAvg())} == {
        "a": 2, "c": 1
    }  # fmt: skip


def test_a_client_that_claims_other_than_the_images_it_announced_is_dropped() -> None:
    def claims_more(update: ClientUpdate) -> ClientUpdate:
        return replace(update, num_examples=1000) if update.num_examples == 3 else update

    clients, log = make(Node(claims_more))
    assert [u.client for u in clients.train(plan(), FedAvg())] == ["a"]
    assert log.drops() == [("c", "num-examples: expected 3, found 1000")]


class Picky(FedAvg):
    def check_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        if update.client == "a":
            raise ValueError("not this one")


def test_what_a_strategy_cannot_use_is_dropped_with_its_reason() -> None:
    clients, log = make(Node())
    assert [u.client for u in clients.train(plan(), Picky())] == ["c"]
    assert log.drops() == [("a", "not this one")]


class Stumbles(FedAvg):
    def check_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        raise TypeError("boom")


def test_a_strategy_that_fails_to_check_is_named() -> None:
    clients, log = make(Node())
    with pytest.raises(UserError, match=r"test_run_clients:Stumbles: TypeError: boom"):
        list(clients.train(plan(), Stumbles()))
    assert log.drops() == []


def test_measured_sums_come_in_the_clients_order_and_fit_the_handshake() -> None:
    clients, log = make(Node())
    found = clients.evaluate(EvaluateTask(START, 3, (TEST, VALIDATION)), SPEC)
    assert list(found) == [TEST, VALIDATION]
    for part, size in SIZES.items():
        assert list(found[part]) == ["a", "b", "c"]
        assert all(sums.num_examples == size for sums in found[part].values())
    assert log.drops() == []


def test_calibration_sums_come_in_the_clients_order() -> None:
    clients, _ = make(Node())
    task = CalibrateTask(START, "temperature", {})
    found = clients.calibration_sums(task, {"s": torch.zeros(1, dtype=torch.float64)})
    assert {key: float(sums["s"]) for key, sums in found.items()} == {"a": 1, "b": 2, "c": 3}
    assert list(found) == ["a", "b", "c"]


def test_the_wait_for_replies_is_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def collect(*arguments: Any) -> Iterator[tuple[str, ClientUpdate]]:
        seen.append(arguments[-1])
        return iter(())

    monkeypatch.setattr("fl2ora.server_app.clients.collect", collect)
    clients, _ = make(Node(), round_timeout=12.5)
    list(clients.train(plan(), FedAvg()))
    clients.evaluate(EvaluateTask(START, 1), SPEC)
    clients.calibration_sums(CalibrateTask(START, "temperature", {}), {})
    assert seen == [12.5, 12.5, 12.5]


class Flaky(LastFirst):
    """Some of its nodes may be offline."""

    gone: frozenset[int] = frozenset()

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in super().get_node_ids() if node not in self.gone]


def flaky(app: ClientApp) -> tuple[Clients, Log, Flaky]:
    clients, log = make(app)
    grid = Flaky(app, {}, 3)
    clients._grid = clients._attendance._grid = grid
    return clients, log, grid


def test_a_client_that_is_away_is_sent_nothing_and_told_once() -> None:
    app = Node()
    clients, log, grid = flaky(app)
    grid.gone = frozenset({3})
    for _ in range(2):
        assert [u.client for u in clients.train(plan(), FedAvg())] == ["a"]
    assert len(app.tasks) == 2
    assert log.drops() == []
    assert [e for e in log.events if e["event"] != "client"] == [
        {"event": "client-lost", "round": 2, "client": "c"}
    ]


def test_a_change_of_who_was_measured_is_on_record_once() -> None:
    clients, log, grid = flaky(Node())
    for number, gone in enumerate([(), (), (2,), (2,)]):
        grid.gone = frozenset(gone)
        clients.evaluate(EvaluateTask(START, number), SPEC)
    calibrated = EvaluateTask(START, 3, calibrator="temperature")
    grid.gone = frozenset({1, 2})
    clients.evaluate(calibrated, SPEC)
    found = [(e["round"], e["clients"]) for e in log.events if e["event"] == "measured-clients"]
    assert found == [(0, ("a", "b", "c")), (2, ("a", "c"))]


def test_a_client_whose_reply_could_not_be_used_is_asked_who_it_is() -> None:
    def claims_more(update: ClientUpdate) -> ClientUpdate:
        return replace(update, num_examples=9) if update.num_examples == 3 else update

    app = Node(claims_more)
    app.query("hello")(lambda message, context: encode_hello(message, NodeInfo("c", num_train=9)))
    clients, log, _ = flaky(app)
    used = [[u.client for u in clients.train(plan(), FedAvg())] for _ in range(3)]
    assert used == [["a"], ["a"], ["c", "a"]]
    assert log.drops() == [("c", "num-examples: expected 3, found 9")] * 2
    changed = [event for event in log.events if event["event"] == "client-changed"]
    assert [(e["client"], e["counts"]["num_train"]) for e in changed] == [("c", (3, 9))]
