"""Sending messages and taking replies as they come, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

from fl2ora.messages.records import UnusableMessageError

T = TypeVar("T")
OnDrop = Callable[[str, str], None]
"""Told of every client that gave no usable reply, and the reason."""

_FIRST_WAIT = 0.02
_LONGEST_WAIT = 1.0


def receive(grid: Grid, messages: Iterable[Message], timeout: float) -> Iterator[Message]:
    """Send ``messages`` and yield each reply when it is there, until all came or time is up.

    A reply is handed on and forgotten, so memory does not grow with the number of nodes.
    """
    # A list, because Flower's grid goes over the messages twice; None stands for one it refused.
    waiting = {identifier for identifier in grid.push_messages(list(messages)) if identifier}
    deadline = time.monotonic() + timeout
    pause = _FIRST_WAIT
    while waiting and time.monotonic() < deadline:
        arrived = False
        for reply in grid.pull_messages(waiting):
            if reply.metadata.reply_to_message_id in waiting:
                waiting.remove(reply.metadata.reply_to_message_id)
                arrived = True
                yield reply
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

    Every other client ends in ``on_drop`` with one reason: what ``decode`` could not read, a second
    reply, or silence until the time was up. Nothing a node sends gets past this.

    Args:
        grid: where the nodes are.
        messages: one for each node.
        nodes: client keys by node id.
        decode: reads the reply of the client of that key; raises ``UnusableMessageError``.
        on_drop: told of every client that gave no usable reply.
        timeout: seconds for all replies together.
    """
    silent = dict(nodes)
    for reply in receive(grid, messages, timeout):
        node = reply.metadata.src_node_id
        client = silent.pop(node, None)
        if client is None:
            on_drop(nodes.get(node, str(node)), "a second reply, or one of a node not asked")
            continue
        try:
            decoded = decode(reply, client)
        except UnusableMessageError as error:
            on_drop(client, str(error))
            continue
        yield client, decoded
    for client in silent.values():
        on_drop(client, f"no reply in {timeout:g} s")
