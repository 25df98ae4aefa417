"""Nodes that leave, come back, come late or come back changed, while a run goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Error, Message
from flwr.supercore.task_identity import TaskIdentity

from fl2ora.experiment.config import RunConfig
from fl2ora.messages.hello import NodeInfo, encode_hello
from fl2ora.server_app import attendance as module
from fl2ora.server_app.arrivals import Peer
from fl2ora.server_app.attendance import Attendance

OWN = {key: NodeInfo(key, num_train=10, num_test=4, class_names=("x", "y")) for key in "abc"}


@pytest.fixture(autouse=True)
def _identity() -> None:
    """Give this process what Flower's messages ask for."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0


class FlakyGrid:
    """Nodes by id, each with what it says of itself; only those online answer."""

    def __init__(self) -> None:
        self.nodes = {1: OWN["a"], 2: OWN["b"], 3: OWN["c"]}
        self.online = {1, 2, 3}
        self.failing: set[int] = set()
        self.asked: list[int] = []
        self.waiting: dict[str, Message] = {}

    def get_node_ids(self) -> list[int]:
        return sorted(self.online)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        found = []
        for message in messages:
            identifier = f"message-{len(self.asked)}"
            message.metadata.__dict__["_message_id"] = identifier
            self.asked.append(message.metadata.dst_node_id)
            self.waiting[identifier] = message
            found.append(identifier)
        return found

    def pull_messages(self, identifiers: Iterable[str]) -> Iterator[Message]:
        for identifier in sorted(identifiers):
            message = self.waiting[identifier]
            node = message.metadata.dst_node_id
            if node in self.online:
                del self.waiting[identifier]
                if node in self.failing:
                    yield Message(Error(2, "out of memory"), reply_to=message)
                else:
                    yield encode_hello(message, self.nodes[node])


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def log(self, event: str, **fields: Any) -> None:
        self.events.append((event, *fields.values()))

    def metrics(self, *_: Any) -> None:
        raise AssertionError("not asked")


def make(**settings: Any) -> tuple[FlakyGrid, Attendance, Log]:
    grid, log = FlakyGrid(), Log()
    peers = [Peer(node, info) for node, info in grid.nodes.items()]
    found = Attendance(grid, peers, RunConfig(**settings), log, lambda peers: [])  # type: ignore[arg-type]
    return grid, found, log


def test_while_nothing_happens_nobody_is_asked() -> None:
    grid, attendance, log = make()
    for number in (1, 2, 3):
        attendance.look(number)
    assert (grid.asked, log.events, attendance.away) == ([], [], {})


def test_a_node_that_left_is_told_once_and_may_come_back_under_its_own_id() -> None:
    grid, attendance, log = make()
    grid.online = {1, 3}
    attendance.look(4)
    attendance.look(5)
    assert attendance.away == {"b": 4}
    grid.online = {1, 2, 3}
    attendance.look(6)  # asked who it is, since it may have changed
    assert attendance.away == {"b": 4}
    attendance.look(7)
    assert attendance.away == {}
    assert grid.asked == [2]
    assert log.events == [("client-lost", 4, "b"), ("client-back", 7, "b")]


def test_a_node_that_failed_to_say_who_it_is_is_asked_again() -> None:
    grid, attendance, _ = make()
    grid.online = {1, 3}
    attendance.look(1)
    grid.online, grid.failing = {1, 2, 3}, {2}
    for number in (2, 3, 4):
        attendance.look(number)
    assert attendance.away == {"b": 1}
    grid.failing = set()
    for number in (5, 6):
        attendance.look(number)
    assert attendance.away == {}


def test_without_node_keys_a_client_comes_back_on_a_new_node() -> None:
    grid, attendance, log = make()
    grid.online = {1, 3}
    attendance.look(1)
    grid.nodes[99], grid.online = OWN["b"], {1, 3, 99}
    attendance.look(2)
    attendance.look(3)
    assert attendance.nodes == {"a": 1, "b": 99, "c": 3}
    assert log.events == [("client-lost", 1, "b"), ("client-back", 3, "b")]


def test_a_second_node_of_a_client_stands_by_until_the_first_is_offline() -> None:
    """A node that crashed is taken for online for a minute, when its successor is there."""
    grid, attendance, log = make()
    grid.nodes[99], grid.online = OWN["b"], {1, 2, 3, 99}
    for number in (1, 2, 3):
        attendance.look(number)
    assert attendance.nodes["b"] == 2
    grid.online = {1, 3, 99}
    attendance.look(4)
    assert attendance.nodes["b"] == 99
    assert attendance.away == {}
    assert grid.asked == [99]
    assert log.events == [("client-lost", 4, "b"), ("client-back", 4, "b")]


@pytest.mark.parametrize("exclude", ["", "d", "e"])
def test_a_client_that_comes_late_is_told_once_and_left_out(exclude: str) -> None:
    grid, attendance, log = make(exclude=exclude)
    grid.nodes[99], grid.online = NodeInfo("d"), {1, 2, 3, 99}
    for number in (1, 2, 3):
        attendance.look(number)
    assert set(attendance.nodes) == set("abc")
    assert log.events == ([] if exclude == "d" else [("node-late", 2, "d")])


def test_after_a_reply_that_could_not_be_used_changed_data_are_seen() -> None:
    grid, attendance, log = make()
    infos = attendance.infos
    grid.nodes[2] = replace(OWN["b"], num_train=12, device="cuda")
    attendance.doubt("b")
    attendance.look(1)
    attendance.look(2)
    assert log.events == [("client-changed", 2, "b", {"num_train": (10, 12)})]
    assert infos["b"].num_train == 12  # whoever holds the infos sees it
    assert grid.asked == [2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"class_names": ("y", "x")}, "its class_names differ"),
        ({"rank": 2}, "its rank differ"),
        ({"digests": (("base weights", "0"),)}, "its digests differ"),
        ({"source": "partition", "num_train": 9}, "its source differ; it has other images than"),
    ],
)
def test_a_client_that_comes_back_as_another_is_not_used(
    change: dict[str, Any], reason: str
) -> None:
    grid, attendance, log = make()
    grid.online = {1, 3}
    attendance.look(1)
    grid.nodes[2], grid.online = replace(OWN["b"], **change), {1, 2, 3}
    for number in (2, 3, 4):
        attendance.look(number)
    assert attendance.away == {"b": 1}
    assert [event[:3] for event in log.events] == [
        ("client-lost", 1, "b"),
        ("node-refused", 3, "b"),
    ]
    assert log.events[1][3].startswith(reason)
    assert attendance.infos["b"] == OWN["b"]
    assert grid.asked == [2]  # it is not asked over and over


def test_other_code_is_refused_after_a_bad_reply_though_the_node_never_left() -> None:
    grid, _, log = make()
    peers = [Peer(node, info) for node, info in grid.nodes.items()]
    attendance = Attendance(
        grid,  # type: ignore[arg-type]
        peers,
        RunConfig(),
        log,
        lambda peers: [(peer.client, "other code") for peer in peers],
    )
    attendance.doubt("c")
    for number in (1, 2):
        attendance.look(number)
    assert attendance.away == {"c": 2}
    assert log.events == [("node-refused", 2, "c", "other code")]


class Clock:
    def __init__(self, grid: FlakyGrid, returns: float) -> None:
        self.now, self.grid, self.returns = 0.0, grid, returns

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.returns:
            self.grid.online = {1, 2, 3}


@pytest.mark.parametrize(("returns", "there"), [(20.0, 2), (100.0, 1)])
def test_a_round_waits_for_as_many_as_it_needs(
    monkeypatch: pytest.MonkeyPatch, returns: float, there: int
) -> None:
    grid, attendance, log = make(start_timeout=60.0)
    clock = Clock(grid, returns)
    monkeypatch.setattr(module, "time", clock)
    grid.online = {1}
    assert attendance.await_some(["a", "b"], 1, 5) == 1
    assert clock.now == 0
    assert attendance.await_some(["a", "b"], 2, 5) == there
    assert clock.now == pytest.approx(min(returns + 1, 60), abs=1.5)
    assert log.events.count(("waiting", 5, 1, 2)) == 1


def test_the_wait_ends_when_the_process_is_asked_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, attendance, _ = make()
    clock = Clock(grid, 1e9)
    monkeypatch.setattr(module, "time", clock)
    grid.online = set()
    assert attendance.await_some(["a"], 1, 5, lambda: clock.now > 3) == 0
    assert clock.now < 6
