"""What several partitioners do: cut by proportions, and see to it that every client has enough."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl2ora.federated_data.partition.base import Indices

_EQUAL_SHARES = 1e12  # from here on a draw is equal shares; far above, its sums overflow


def check_draw(beta: float, minimum: int) -> None:
    """Refuse arguments of a Dirichlet draw that are out of their range.

    Raises:
        ValueError: one is.
    """
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"beta: expected a finite number above 0, found {beta}")
    if minimum < 1:
        raise ValueError(f"minimum: expected at least 1, found {minimum}")


def proportions(beta: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw ``(count,)`` proportions from a symmetric Dirichlet distribution."""
    return rng.dirichlet(np.full(count, min(beta, _EQUAL_SHARES)))


def shuffled_members(labels: Indices, rng: np.random.Generator) -> list[Indices]:
    """Return the indices of each class there is, in the order of the labels, each shuffled."""
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]


def dealt(members: Sequence[Indices], cuts: Sequence[Indices], num_clients: int) -> list[Indices]:
    """Return what each client gets of several decks, in the order of the decks.

    It is ``np.split`` of every deck, put together by client; a thousand decks for a thousand
    clients would be a million small arrays.

    Args:
        members: the decks.
        cuts: of each, the ``num_clients - 1`` places where it is cut, in rising order.
        num_clients: how many clients there are.
    """
    ends = [np.append(own, len(deck)) for own, deck in zip(cuts, members, strict=True)]
    counts = [np.diff(own, prepend=0) for own in ends]
    owners = np.concatenate([np.repeat(np.arange(num_clients), own) for own in counts])
    order = np.argsort(owners, kind="stable")
    sizes: Indices = np.sum(counts, axis=0)
    return np.split(np.concatenate(members)[order], np.cumsum(sizes)[:-1])


def top_up(clients: Sequence[Indices], minimum: int) -> list[Indices]:
    """Move last examples, one at a time, from the largest client to the first that lacks one.

    Args:
        clients: own at least ``minimum`` examples each on average.
        minimum: fewest examples of any client afterwards.
    """
    owned = [client.tolist() for client in clients]
    # While one has too few, another has more than enough: the needy are never the largest.
    largest = [(-len(client), number) for number, client in enumerate(owned)]
    heapq.heapify(largest)
    for client in owned:
        while len(client) < minimum:
            size, donor = largest[0]
            client.append(owned[donor].pop())
            heapq.heapreplace(largest, (size + 1, donor))
    return [np.array(client, dtype=np.int64) for client in owned]
