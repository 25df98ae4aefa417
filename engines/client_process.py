"""The processes that compute clients: one that starts them, and what each of them does.

The starter imports the libraries, and loads the data and the model when it is told the run. Each
time it is sent one end of a socket it forks itself, and the copy answers what comes through that:
all of them share what was loaded. The starter runs no operation in more than one thread, so that a
fork finds no lock held, and does not touch a GPU, which cannot be taken through a fork.

Whoever ends, ends the others: a closed socket is the end of the process that reads it, whatever it
computes.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import warnings
from multiprocessing.connection import Connection
from typing import Any

import torch

from fl2ora.client_app.app import app
from fl2ora.client_app.node import Node
from fl2ora.clip_tuning.processor import use_processor
from fl2ora.engines.answering import answered
from fl2ora.engines.client_frames import Frames, answer_frames, read_task, receive, send
from fl2ora.experiment.config import Value

READY = b"ready"
_AT_ONCE = 2**16  # bytes
_ORPHAN = 3  # exit code


def start_clients(descriptor: int) -> None:
    """Fork a process for every socket that comes in, until the other end is closed.

    Args:
        descriptor: of a socket. On it come JSON lines: first the run; then ``{"fork": true}``, with
            the end of another socket, or ``{"end": pid}``, answered with how that process ended.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the run, which ends its processes
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    control = socket.socket(fileno=descriptor)
    lines = _Lines(control)
    run: dict[str, Any] | None = None
    processes: set[int] = set()
    while (order := lines.next()) is not None:
        if "end" in order:
            pid = order["end"]
            os.kill(pid, signal.SIGKILL)  # of one that has died it is not known how, else
            control.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            processes.remove(pid)
        elif run is None:
            run = order
            _warm_up(run)
        else:
            end = lines.descriptor()
            pid = os.fork()
            if pid == 0:
                control.close()
                _answer(end, run["threads"])
            processes.add(pid)
            os.close(end)
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class _Lines:
    """JSON lines from a socket, and the descriptors that come with them."""

    def __init__(self, control: socket.socket) -> None:
        self._control, self._text, self._descriptors = control, b"", list[int]()

    def next(self) -> dict[str, Any] | None:
        """Return the next line; None: there will be no more."""
        while b"\n" not in self._text:
            text, descriptors, _, _ = socket.recv_fds(self._control, _AT_ONCE, 1)
            if not text:
                return None
            self._text += text
            self._descriptors += descriptors
        line, _, self._text = self._text.partition(b"\n")
        order: dict[str, Any] = json.loads(line)
        return order

    def descriptor(self) -> int:
        """Return the one that came with the last line."""
        return self._descriptors.pop(0)


def _warm_up(run: dict[str, Any]) -> None:
    """Load what every node of a run needs; a mistake in it is told when a node is asked."""
    if run["log"]:
        with open(run["log"], "ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    with contextlib.suppress(Exception):
        share: dict[str, Value] = {"partition-id": 0, "num-partitions": run["nodes"]}
        node = Node.from_configs(run["config"], share, 1)
        node.data  # noqa: B018
        if node.device.type == "cpu":
            node.classifier()


def _answer(end: int, threads: int) -> None:
    """Answer tasks until there are no more."""
    try:
        use_processor(threads)
        channel = Connection(end)
        tasks: queue.Queue[Frames] = queue.Queue()
        threading.Thread(target=_listen, args=(channel, tasks), daemon=True).start()
        send(channel, [READY, str(os.getpid()).encode()])
        while True:
            message, context = read_task(tasks.get())
            reply = answered(app, message, context)
            send(channel, answer_frames(reply, context.state))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _listen(channel: Connection, tasks: queue.Queue[Frames]) -> None:
    """Take tasks as they come; the end of them is the end of this process, whatever it does."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            tasks.put(receive(channel))
    os._exit(_ORPHAN)
