"""A Grid whose nodes live in this process, or in processes of it: no Ray, no daemon."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from uuid import uuid4

from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fl2ora.engines.answering import answered
from fl2ora.engines.client_processes import ClientProcesses, Task
from fl2ora.engines.joint_answers import answered_jointly
from fl2ora.experiment.config import Value
from fl2ora.messages.records import TRAIN


class InProcessGrid(Grid):
    """Runs a ClientApp for ``num_clients`` nodes when replies are pulled.

    Node ids are 1 to ``num_clients``; each node keeps its ``Context.state`` from message to
    message, as Flower's simulation does, and nothing else of its context. Replies come in the order
    of the messages. Those to queries are made here, one at a time, so that a debugger works
    everywhere; all others are too, as long as there are no ``processes`` for them.

    Args:
        client_app: the very object a SuperNode would run.
        run_config: flat run config of all nodes.
        num_clients: number of nodes.
        run_id: Flower's id of the run.
        node_configs: further node-config keys by index, for nodes that differ.
        processes: of the same ClientApp, which compute clients at once.
        clients_per_batch: how many clients are trained together, if that is more than one; by
            ``answered_jointly``, not by ``client_app``.

    Attributes:
        clients_per_batch: as given.
    """

    def __init__(
        self,
        client_app: ClientApp,
        run_config: dict[str, Value],
        num_clients: int,
        run_id: int = 1,
        node_configs: dict[int, dict[str, Value]] | None = None,
        processes: ClientProcesses | None = None,
        clients_per_batch: int = 1,
    ) -> None:
        self.clients_per_batch = clients_per_batch
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 0, 0
        self._client_app = client_app
        self._run_id = run_id
        self._pending: dict[str, Message] = {}
        self._processes, self._seconds, self._pushed = processes, 0.0, 0.0
        self._run_config, self._num_clients = dict(run_config), num_clients
        self._node_configs = node_configs or {}
        self._kept: dict[int, Context] = {}  # of nodes that keep something

    def set_run(self, run: Run) -> None:
        """Refuse: the run is fixed at construction."""
        raise RuntimeError("an InProcessGrid belongs to one run")

    @property
    def run(self) -> Run:
        """Describe the run."""
        return Run.create_empty(run_id=self._run_id)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message (Flower's older way; ``Message(...)`` is the newer one)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return range(1, self._num_clients + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; nothing is computed yet."""
        self._pushed = time.monotonic()
        identifiers = []
        for message in messages:
            identifier = str(uuid4())
            message.metadata.__dict__["_message_id"] = identifier
            self._pending[identifier] = message
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Run the ClientApp on each queued message and yield its reply."""
        wanted = set(message_ids)
        for identifier in [i for i in self._pending if i in wanted]:
            if identifier not in self._pending:
                continue  # answered together with one before
            if self._trains(self._pending[identifier]) and self.clients_per_batch > 1:
                yield from self._jointly(wanted)
                continue
            if self._handed_over(self._pending[identifier]):
                yield from self._by_processes(wanted)
                return
            yield self._run(self._pending.pop(identifier))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run the ClientApp on all messages; ``timeout`` cannot interrupt this process."""
        identifiers = list(self.push_messages(messages))
        replies = list[Message]()
        while len(replies) < len(identifiers):
            replies += self.pull_messages(identifiers)
        return replies

    def _handed_over(self, message: Message) -> bool:
        if self._processes is None or not self._computes(message):
            return False
        return self._processes.take_tasks(self._seconds)

    def _by_processes(self, wanted: set[str]) -> Iterator[Message]:
        assert self._processes is not None
        tasks = {
            identifier: Task(message, self._context(message))
            for identifier, message in self._pending.items()
            if identifier in wanted and self._computes(message)
        }
        for identifier, reply in self._processes.answers(tasks, self._pushed):
            del self._pending[identifier]
            self._keep(tasks[identifier].context)
            yield reply

    def _jointly(self, wanted: set[str]) -> list[Message]:
        """Answer the next messages to train; the nodes do so together."""
        some = [i for i, m in self._pending.items() if i in wanted and self._trains(m)]
        messages = [self._pending.pop(i) for i in some[: self.clients_per_batch]]
        asked = [(message, self._context(message)) for message in messages]
        replies = answered_jointly(asked)
        for _, context in asked:
            self._keep(context)
        return replies

    @staticmethod
    def _trains(message: Message) -> bool:
        return message.metadata.message_type == TRAIN

    def _run(self, message: Message) -> Message:
        started = time.monotonic()
        context = self._context(message)
        reply = answered(self._client_app, message, context)
        self._keep(context)
        if self._computes(message):
            self._seconds += time.monotonic() - started
        elif self._processes is not None:
            self._processes.load()
        return reply

    def _context(self, message: Message) -> Context:
        """Return the context of the node a message goes to: the one it kept, else a new one."""
        node = message.metadata.dst_node_id
        if not 1 <= node <= self._num_clients:
            raise KeyError(f"node {node}: expected 1 to {self._num_clients}")
        if node in self._kept:
            return self._kept[node]
        share = {"partition-id": node - 1, "num-partitions": self._num_clients}
        return Context(
            run_id=self._run_id,
            node_id=node,
            node_config={**share, **self._node_configs.get(node - 1, {})},
            state=RecordDict(),
            run_config=dict(self._run_config),
        )

    def _keep(self, context: Context) -> None:
        if len(context.state):  # of most nodes there is nothing to keep: there may be thousands
            self._kept[context.node_id] = context

    @staticmethod
    def _computes(message: Message) -> bool:
        return not message.metadata.message_type.startswith(MessageType.QUERY)
