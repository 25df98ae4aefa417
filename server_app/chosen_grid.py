"""A view of a grid that shows only the nodes chosen for a round.

Strategies, ours and Flower's, address the nodes that the grid they are given shows; so sampling is
decided in one place and by the run's seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class ChosenGrid(Grid):
    """``grid`` with ``get_node_ids`` answering ``clients``; all else is handed through.

    Args:
        grid: to be wrapped.
        clients: keys of the chosen clients by node id.
    """

    def __init__(self, grid: Grid, clients: Mapping[int, str]) -> None:
        self._grid = grid
        self._clients = dict(clients)

    def client_of(self, node: int) -> str:
        """Return the key of the client at a chosen node."""
        return self._clients[node]

    def set_run(self, run: Run) -> None:
        """Hand through."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """Hand through."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Hand through."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the chosen nodes."""
        return list(self._clients)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand through."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand through."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Hand through."""
        return self._grid.send_and_receive(messages, timeout=timeout)
