"""Replies as they come: each client is used or dropped, once, with one reason, in finite time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fl2ora.messages import exchange
from fl2ora.messages.exchange import collect, receive
from fl2ora.messages.records import UnusableMessageError

NODES = {1: "a", 2: "b", 3: "c"}


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 1000, "waits for ever"


class SlowGrid:
    """Hands out the replies of ``arrivals``, a list of node ids for each time it is asked."""

    def __init__(self, *arrivals: list[int]) -> None:
        self.arrivals = list(arrivals)
        self.sent: dict[int, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        for index, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(index)
            self.sent[message.metadata.dst_node_id] = message
        return [message.metadata.message_id for message in self.sent.values()]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        for node in self.arrivals.pop(0) if self.arrivals else []:
            content = RecordDict({"x": ConfigRecord({"node": node})})
            yield Message(content, reply_to=self.sent[node])


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(exchange, "time", time)
    return time


def questions(nodes: Iterable[int] = NODES) -> list[Message]:
    return [Message(RecordDict(), dst_node_id=node, message_type="train") for node in nodes]


def node_of(reply: Message, client: str) -> int:
    node = reply.content.config_records["x"]["node"]
    assert isinstance(node, int)
    if node == 3:
        raise UnusableMessageError("nonsense")
    return node


def run(grid: SlowGrid, nodes: dict[int, str] = NODES, timeout: float = 60) -> tuple[list, list]:
    drops: list[tuple[str, str]] = []

    def on_drop(client: str, reason: str) -> None:
        drops.append((client, reason))

    used = list(collect(grid, questions(), nodes, node_of, on_drop, timeout))  # type: ignore[arg-type]
    return used, drops


def test_replies_are_used_in_the_order_of_arrival() -> None:
    used, drops = run(SlowGrid([2], [], [1], [3]))
    assert used == [("b", 2), ("a", 1)]
    assert drops == [("c", "nonsense")]


def test_silence_ends_at_the_timeout_and_is_a_drop(clock: Time) -> None:
    used, drops = run(SlowGrid([2]), timeout=7.5)
    assert used == [("b", 2)]
    assert drops == [("a", "no reply in 7.5 s"), ("c", "no reply in 7.5 s")]
    assert 7.5 <= clock.now < 9


def test_a_second_reply_of_a_node_is_not_used() -> None:
    """Under two messages to one node, both ids are waited for."""
    grid = SlowGrid([1, 2, 3])
    twice = grid.push_messages

    def push(messages: Iterable[Message]) -> list[str | None]:
        return [*twice(messages), "again"]

    def pull(message_ids: Iterable[str]) -> Iterator[Message]:
        for reply in SlowGrid.pull_messages(grid, message_ids):
            yield reply
            if reply.content.config_records["x"]["node"] == 1:
                second = Message(RecordDict(dict(reply.content)), reply_to=grid.sent[1])
                second.metadata.__dict__["_reply_to_message_id"] = "again"
                yield second

    grid.push_messages, grid.pull_messages = push, pull  # type: ignore[method-assign]
    used, drops = run(grid)
    assert used == [("a", 1), ("b", 2)]
    assert drops == [("a", "a second reply, or one of a node not asked"), ("c", "nonsense")]


def test_a_reply_of_a_node_that_was_not_asked_is_dropped_under_its_id() -> None:
    used, drops = run(SlowGrid([1, 2]), nodes={2: "b"})
    assert used == [("b", 2)]
    assert drops == [("1", "a second reply, or one of a node not asked")]


def test_a_message_the_grid_refused_is_not_waited_for(clock: Time) -> None:
    grid = SlowGrid([1])
    push = grid.push_messages
    grid.push_messages = lambda messages: [push(messages)[0], None, None]  # type: ignore[method-assign]
    assert len(list(receive(grid, questions(), 60))) == 1  # type: ignore[arg-type]
    assert clock.now < 1
