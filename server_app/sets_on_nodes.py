"""Coverage and size of sets of classes, where the images lie on the nodes: sums alone arrive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import Message

from fl2ora.calibration.conformal.set_sums import SetSums
from fl2ora.messages.evaluate import decode_sets
from fl2ora.messages.hello import NodeInfo


class SetsOnNodes:
    """Takes the sums over sets out of the clients' replies.

    Args:
        infos: what each client said of itself.
        num_classes: that may be in a set.
    """

    def __init__(self, infos: Mapping[str, NodeInfo], num_classes: int) -> None:
        self._infos, self._num_classes = infos, num_classes
        self._sums: dict[str, SetSums] = {}

    def take(self, reply: Message, client: str) -> None:
        """Read a client's reply.

        Raises:
            UnusableMessageError: it has no such sums, or what its images cannot have.
        """
        self._sums[client] = decode_sets(reply, self._infos[client].num_test, self._num_classes)

    def of(self, clients: Iterable[str]) -> dict[str, SetSums]:
        """Return the sums of clients whose replies were taken, in their order."""
        return {client: self._sums[client] for client in clients if client in self._sums}
