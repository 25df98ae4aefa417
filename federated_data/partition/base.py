"""The contract of a partitioner: who owns which example."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class PartitionError(ValueError):
    """A partition that cannot be made, with the reason."""


class Partitioner(ABC):
    """Divides N examples among clients; constructor arguments are what a spec string may set."""

    @abstractmethod
    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return one sorted index array per client: disjoint, together all of ``0..N-1``.

        Args:
            labels: ``(N,)`` class of each example.
            num_clients: at least 1.
            rng: the only source of randomness.

        Raises:
            PartitionError: there are too few examples.
        """


def require_examples(available: int, num_clients: int, minimum: int) -> None:
    """Refuse what no partition can satisfy.

    Raises:
        PartitionError: fewer than ``num_clients * minimum`` examples.
    """
    if available < num_clients * minimum:
        raise PartitionError(
            f"{num_clients} clients with at least {minimum} examples each need "
            f"{num_clients * minimum}, the data has {available}: use fewer clients or more data"
        )
