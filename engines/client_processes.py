"""The processes of a run that compute its clients: how many, and who gets which message."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.common.constant import ErrorCode

from fl2ora.engines.client_frames import read_answer, receive, send, task_frames
from fl2ora.engines.client_starter import ClientStarter
from fl2ora.experiment.config import Value
from fl2ora.experiment.errors import UserError

logger = logging.getLogger(__name__)

LOG = "workers.log"
_AHEAD = 4  # messages for each process, from the first that is not answered, that may be at work
_PATIENCE = 20.0  # seconds until whoever waits may look at the clock
_LAST = 0.1  # of round-timeout, in which the order of replies no longer counts


@dataclass(frozen=True)
class Task:
    """A message to a node, and the node's context, whose state changes when it is answered."""

    message: Message
    context: Context


@dataclass(eq=False)
class _Process:
    """A process, what it is at, and for which nodes it keeps features.

    Attributes:
        channel: to it.
        pid: of it; 0 until it is ready.
        identifier: of the message it is at; empty: it waits for one.
        task: of that message.
        nodes: whose last message it answered.
    """

    channel: Connection
    pid: int = 0
    identifier: str = ""
    task: Task | None = None
    nodes: set[int] = field(default_factory=set)


class ClientProcesses:
    """Computes clients in processes that are forked from one which has everything loaded.

    Replies are handed on in the order of the messages, whoever is done first, and each is computed
    with ``threads`` threads, so that all numbers are those of one process.

    They cost some seconds of a processor to start. With ``after``, that is spent once clients have
    taken as long, and the process of the run goes on computing them until others are ready.

    Args:
        count: of processes.
        run_config: flat.
        nodes: how many there are.
        threads: of each process.
        folder: of the run, for the processes' log.
        after: seconds of computing clients; 0: start at once, and wait until one is ready.
    """

    def __init__(
        self,
        count: int,
        run_config: Mapping[str, Value],
        nodes: int,
        threads: int,
        folder: Path,
        after: float = 0.0,
    ) -> None:
        self._count, self._nodes, self._threads = count, nodes, threads
        self._config, self._log, self._after = dict(run_config), folder / LOG, after
        self._timeout = float(run_config["round-timeout"])
        self._starter: ClientStarter | None = None
        self._told = self._failed = False
        self._processes: list[_Process] = []
        self._answers: dict[str, Message] = {}

    def __enter__(self) -> ClientProcesses:
        """Have the libraries imported, if nobody is to wait for it later."""
        if not self._after:
            self._starter = ClientStarter(self._threads)
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes, whatever they do."""
        for process in self._processes:
            process.channel.close()
        self._processes.clear()
        if self._starter is not None:
            self._starter.close()
        with contextlib.suppress(OSError):
            if not self._log.stat().st_size:
                self._log.unlink()

    def load(self) -> None:
        """Have data and model loaded and the processes forked, if the libraries are.

        Called when this process has loaded them: what is downloaded and decoded once is there.
        """
        if self._starter is None or self._told:
            return
        self._told = True
        log = str(self._log) if self._log.parent.is_dir() else ""
        self._starter.load({
            "config": self._config, "nodes": self._nodes, "threads": self._threads, "log": log,
        })  # fmt: skip
        self._processes = [_Process(self._starter.fork()) for _ in range(self._count)]

    def take_tasks(self, seconds: float) -> bool:
        """Return whether there are processes to give tasks to, after so many seconds without.

        Raises:
            UserError: they could not be started, and were to be at once.
        """
        if seconds < self._after or self._failed:
            return False
        self._starter = self._starter or ClientStarter(self._threads)
        self.load()
        try:
            self._hear(0)
            while not self._after and not self._ready:
                self._hear(_PATIENCE)
        except UserError as error:
            if not self._after:
                raise
            self._failed = True
            logger.warning("Clients are computed in this process: %s", error)
        return self._ready

    def answers(self, tasks: Mapping[str, Task], since: float) -> Iterator[tuple[str, Message]]:
        """Yield replies to messages by their ids, in their order, as long as some arrive.

        Ends before all are answered when none came for a while; then ask again. Tasks of earlier
        calls that are not among ``tasks`` are given up, with the processes at them. When most of
        ``round-timeout`` has passed, replies are yielded as they come, so that one that hangs costs
        no other.

        Args:
            tasks: in their order.
            since: when they were sent, by the monotonic clock.

        Raises:
            UserError: no process is left, and none can be started.
        """
        self._give_up_others(tasks)
        waiting = deque(tasks)
        while waiting:
            self._hand_out({i: tasks[i] for i in list(waiting)[: _AHEAD * self._count]})
            late = time.monotonic() - since > (1 - _LAST) * self._timeout
            known = next((i for i in waiting if i in self._answers), None)
            if known is not None and (late or known == waiting[0]):
                waiting.remove(known)
                yield known, self._answers.pop(known)
            elif not self._hear(min(_PATIENCE, _LAST / 2 * self._timeout)):
                return

    @property
    def _ready(self) -> bool:
        return any(process.pid for process in self._processes)

    def _give_up_others(self, tasks: Mapping[str, Task]) -> None:
        """End the processes whose tasks nobody waits for any more."""
        for process in [p for p in self._processes if p.identifier not in ("", *tasks)]:
            process.identifier = ""
            self._replace(process)
        self._answers = {i: reply for i, reply in self._answers.items() if i in tasks}

    def _hand_out(self, tasks: Mapping[str, Task]) -> None:
        """Give tasks that nobody is at to those who have none."""
        taken = {process.identifier for process in self._processes} | self._answers.keys()
        free = {i: task for i, task in tasks.items() if i not in taken}
        for process in self._processes:
            if process.pid and not process.identifier and free:
                identifier = self._best_for(process, free)
                self._give(process, identifier, free.pop(identifier))

    def _best_for(self, process: _Process, tasks: Mapping[str, Task]) -> str:
        """Return a task of a node it has features of, else of one nobody has, else the first."""
        nodes = {i: task.context.node_id for i, task in tasks.items()}
        known = set().union(*(other.nodes for other in self._processes))
        own = [i for i, node in nodes.items() if node in process.nodes]
        new = [i for i, node in nodes.items() if node not in known]
        return (own or new or list(nodes))[0]

    def _give(self, process: _Process, identifier: str, task: Task) -> None:
        for other in self._processes:
            other.nodes.discard(task.context.node_id)
        process.nodes.add(task.context.node_id)
        process.identifier, process.task = identifier, task
        with contextlib.suppress(OSError):  # it has just died, which its channel tells
            send(process.channel, task_frames(task.message, task.context))

    def _hear(self, patience: float) -> bool:
        """Take what the processes say; return whether one did within so many seconds.

        Raises:
            UserError: there is none.
        """
        if not self._processes:
            raise UserError(f"workers: no process is left to compute clients; see {self._log}")
        channels = {process.channel.fileno(): process for process in self._processes}
        heard = wait(list(channels), patience)
        for number in heard:
            self._take(channels[number])  # type: ignore[index]
        return bool(heard)

    def _take(self, process: _Process) -> None:
        try:
            frames = receive(process.channel)
        except (EOFError, OSError):
            self._bury(process)
            return
        if not process.pid:
            process.pid = int(frames[1])
            return
        task, identifier = process.task, process.identifier
        process.task, process.identifier = None, ""
        assert task is not None
        self._answers[identifier], task.context.state = read_answer(frames)

    def _bury(self, process: _Process) -> None:
        """Answer in the place of a process that died, and have another started."""
        task, identifier = process.task, process.identifier
        if not process.pid:
            self._processes.remove(process)
            process.channel.close()
            return
        cause = self._replace(process)
        if task is not None:
            error = Error(ErrorCode.CLIENT_APP_CRASHED, f"its process ended with {cause}")
            self._answers[identifier] = Message(error, reply_to=task.message)

    def _replace(self, process: _Process) -> str:
        """Have a process ended, if it has not, and another started; return how it ended."""
        self._processes.remove(process)
        process.channel.close()
        assert self._starter is not None
        cause = self._starter.end(process.pid)
        self._processes.append(_Process(self._starter.fork()))
        return cause
