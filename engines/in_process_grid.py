"""A Grid whose nodes live in this process: no Ray, no daemon, a debugger works everywhere."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Iterator
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fl2ora.experiment.config import Value

logger = logging.getLogger(__name__)


class InProcessGrid(Grid):
    """Runs a ClientApp for ``num_clients`` nodes, one message at a time, when replies are pulled.

    Node ids are 1 to ``num_clients``; each node keeps its ``Context.state`` from message to
    message, as Flower's simulation does.

    Args:
        client_app: the very object a SuperNode would run.
        run_config: flat run config of all nodes.
        num_clients: number of nodes.
        run_id: Flower's id of the run.
        node_configs: further node-config keys by index, for nodes that differ.
    """

    def __init__(
        self,
        client_app: ClientApp,
        run_config: dict[str, Value],
        num_clients: int,
        run_id: int = 1,
        node_configs: dict[int, dict[str, Value]] | None = None,
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 0, 0
        self._client_app = client_app
        self._run_id = run_id
        self._pending: dict[str, Message] = {}
        self._contexts = {
            index + 1: Context(
                run_id=run_id,
                node_id=index + 1,
                node_config={
                    "partition-id": index,
                    "num-partitions": num_clients,
                    **(node_configs or {}).get(index, {}),
                },
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for index in range(num_clients)
        }

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
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; nothing is computed yet."""
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
            yield self._run(self._pending.pop(identifier))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run the ClientApp on all messages; ``timeout`` cannot interrupt this process."""
        return list(self.pull_messages(list(self.push_messages(messages))))

    def _run(self, message: Message) -> Message:
        """Answer one message, or report what was raised, as a SuperNode does."""
        context = self._contexts[message.metadata.dst_node_id]
        try:
            return self._client_app(message, context)
        except Exception as error:
            logger.debug("ClientApp raised:\n%s", traceback.format_exc())
            reason = f"{type(error).__name__}: {error}"
            return Message(
                Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message
            )
