"""Replies as they come: each client is used or dropped, once, with one reason, in finite time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

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
            reply = Message(content, reply_to=self.sent[node])
            reply.metadata.__dict__["_src_node_id"] = node
            yield reply


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
    used, drops = run(SlowGrid([1, 1, 2], [1, 3]))
    assert used == [("a", 1), ("b", 2)]
    second = ("a", "a second reply, or one of a node not asked")
    assert drops == [second, second, ("c", "nonsense")]


def test_a_lost_node_is_one_drop_under_its_own_name_and_time(clock: Time) -> None:
    """What the SuperLink answers in place of a node comes from the SuperLink, whose id is 1."""

    class LosesNode2(SlowGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
            yield from super().pull_messages(message_ids)
            if clock.now > 115:
                gone = Message(Error(ErrorCode.NODE_UNAVAILABLE, "no beat"), reply_to=self.sent[2])
                gone.metadata.__dict__["_src_node_id"] = 1
                yield gone

    used, drops = run(LosesNode2([3, 1]), timeout=3600)
    assert used == [("a", 1)]
    assert drops[0] == ("c", "nonsense")
    ((client, reason),) = drops[1:]
    assert client == "b"
    seconds = re.fullmatch(r"its node went offline, found after ([0-9.]+) s", reason)
    assert seconds is not None
    assert 115 < float(seconds[1]) < 118


def test_a_reply_that_another_node_wrote_is_dropped() -> None:
    class Forges(SlowGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
            for reply in super().pull_messages(message_ids):
                reply.metadata.__dict__["_src_node_id"] = 2
                yield reply

    used, drops = run(Forges([1, 2, 3]))
    assert used == [("b", 2)]
    assert drops == [
        ("a", "a reply that came from another node, 2"),
        ("c", "a reply that came from another node, 2"),
    ]


def test_a_reply_of_a_node_that_was_not_asked_is_dropped_under_its_id() -> None:
    used, drops = run(SlowGrid([1, 2]), nodes={2: "b"})
    assert used == [("b", 2)]
    assert drops == [("1", "a second reply, or one of a node not asked")]


def test_a_message_the_grid_refused_is_a_drop_at_once(clock: Time) -> None:
    grid = SlowGrid([1])
    push = grid.push_messages
    grid.push_messages = lambda messages: [push(messages)[0], None, None]  # type: ignore[method-assign]
    used, drops = run(grid)
    assert used == [("a", 1)]
    reason = "the SuperLink took no message for its node"
    assert drops == [("b", reason), ("c", reason)]
    assert clock.now < 1


def test_messages_too_large_for_the_superlink_end_the_wait_at_once(clock: Time) -> None:
    """Flower's grid returns nothing at all then."""
    grid = SlowGrid([1, 2, 3])
    grid.push_messages = lambda messages: []  # type: ignore[method-assign]
    assert [node for node, reply in receive(grid, questions(), 60) if reply is None] == [1, 2, 3]  # type: ignore[arg-type]
    assert clock.now == 0
