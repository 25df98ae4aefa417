"""Sending messages and taking replies as they come, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import TypeVar

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fl2ora.messages.packing import packed_for, unpack
from fl2ora.messages.records import UnusableMessageError

T = TypeVar("T")
OnDrop = Callable[[str, str], None]
"""Told of every client that gave no usable reply, and the reason."""

_FIRST_WAIT = 0.02
_LONGEST_WAIT = 1.0


def receive(
    grid: Grid, messages: Iterable[Message], timeout: float
) -> Iterator[tuple[int, Message | None]]:
    """Send ``messages``; yield each reply when it is there, with the node that was asked.

    What the SuperLink answers in place of a node that is gone comes from the SuperLink, so a reply
    is known by the message it replies to. It is handed on and forgotten: memory does not grow with
    the number of nodes. A message that the grid refused is yielded first, with None.
    """
    sent = list(messages)  # Flower's grid goes over them twice
    nodes = [message.metadata.dst_node_id for message in sent]
    identifiers = list(grid.push_messages(sent))
    del sent
    for node, identifier in zip_longest(nodes, identifiers[: len(nodes)]):
        if not identifier:
            yield node, None
    asked = {i: node for i, node in zip(identifiers, nodes, strict=False) if i}
    waiting = set(asked)
    deadline = time.monotonic() + timeout
    pause = _FIRST_WAIT
    while waiting and time.monotonic() < deadline:
        arrived = False
        for reply in grid.pull_messages(waiting.copy()):
            identifier = reply.metadata.reply_to_message_id
            if identifier in asked:
                waiting.discard(identifier)
                arrived = True
                yield asked[identifier], reply
        pause = _FIRST_WAIT if arrived else min(pause * 1.5, _LONGEST_WAIT)
        if waiting:
            time.sleep(pause)


def collect(
    grid: Grid,
    messages: Iterable[Message],
    nodes: Mapping[int, str],
    decode: Callable[[Message, str], T],
    on_drop: OnDrop,
    timeout: float,
) -> Iterator[tuple[str, T]]:
    """Send ``messages`` and yield each usable reply, decoded, with the key of its client.

    Every other client ends in ``on_drop`` with one reason: what ``decode`` could not read, a node
    that is gone, or silence until the time was up. A second reply of a client is one more. Nothing
    a node sends gets past this.

    Args:
        grid: where the nodes are.
        messages: one for each node.
        nodes: client keys by node id.
        decode: reads the reply of the client of that key; raises ``UnusableMessageError``.
        on_drop: told of every client that gave no usable reply.
        timeout: seconds for all replies together.
    """
    silent, start = dict(nodes), time.monotonic()
    for node, reply in receive(grid, packed_for(grid, messages), timeout):
        client = silent.pop(node, None)
        if client is None:
            on_drop(nodes.get(node, str(node)), "a second reply, or one of a node not asked")
            continue
        refusal = _refusal(node, reply, time.monotonic() - start)
        if reply is None or refusal:
            on_drop(client, refusal)
            continue
        try:
            unpack(reply)
            decoded = decode(reply, client)
        except UnusableMessageError as error:
            on_drop(client, str(error))
            continue
        yield client, decoded
    for client in silent.values():
        on_drop(client, f"no reply in {timeout:g} s")


def _refusal(node: int, reply: Message | None, seconds: float) -> str:
    """Return what the way of a reply says against it, or nothing."""
    if reply is None:
        return "the SuperLink took no message for its node"
    if reply.has_error():
        gone = reply.error.code == ErrorCode.NODE_UNAVAILABLE
        return f"its node went offline, found after {seconds:.1f} s" if gone else ""
    sender = reply.metadata.src_node_id
    return "" if sender == node else f"a reply that came from another node, {sender}"
