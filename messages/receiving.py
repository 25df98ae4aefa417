"""Sending messages and taking replies as they come, one at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.serverapp import Grid

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
