"""The contract of a partitioner: who owns which example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class PartitionError(ValueError):
    """A partition that cannot be made, with the reason."""


@dataclass(frozen=True)
class Examples:
    """What is known of N examples that are shared out.

    Attributes:
        labels: ``(N,)`` class of each.
        domains: ``(N,)`` domain of each.
        superclasses: ``(N,)`` of each, None where the dataset has none.
        clients: ``(N,)`` number of the natural client of each, None where it has none.
    """

    labels: Indices
    domains: Indices
    superclasses: Indices | None = None
    clients: Indices | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)


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

    def split_examples(
        self, examples: Examples, num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Return what ``split`` does, for partitioners that read more than labels.

        Raises:
            PartitionError: see ``split``; or the examples lack what it reads.
        """
        return self.split(examples.labels, num_clients, rng)


class ExamplePartitioner(Partitioner):
    """A partitioner that reads more of an example than its label."""

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Share out examples of which nothing but labels is known: of one domain."""
        return self.split_examples(Examples(labels, np.zeros_like(labels)), num_clients, rng)

    @abstractmethod
    def split_examples(
        self, examples: Examples, num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Return one sorted index array per client; see ``Partitioner.split_examples``."""


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


def checked_shares(shares: Sequence[Indices], num_examples: int, num_clients: int) -> list[Indices]:
    """Return the shares of a partitioner if they are what ``Partitioner.split`` promises.

    Raises:
        PartitionError: another number of shares, something else than indices, or an example with
            no owner or with two.
    """
    if len(shares) != num_clients:
        raise PartitionError(f"expected {num_clients} shares, found {len(shares)}")
    arrays = [np.asarray(share) for share in shares]
    for client, array in enumerate(arrays):
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise PartitionError(
                f"share {client}: expected whole numbers of shape (n,), "
                f"found {array.dtype} of shape {array.shape}"
            )
        outside = array[(array < 0) | (array >= num_examples)]
        if outside.size:
            raise PartitionError(
                f"share {client}: expected indices from 0 to {num_examples - 1}, found {outside[0]}"
            )
    whole = [array.astype(np.int64) for array in arrays]
    owners = np.bincount(np.concatenate(whole), minlength=num_examples)
    wrong = np.flatnonzero(owners != 1)
    if wrong.size:
        raise PartitionError(
            f"expected every example in one share, found example {wrong[0]} in {owners[wrong[0]]} "
            f"({np.sum(owners == 0)} in none, {np.sum(owners > 1)} in several)"
        )
    return whole
