"""Label skew with nearly equal sizes: a client that has its part of the data gets no more.

Yurochkin et al. 2019, arXiv 1905.12022, as their released code and that of many after it draw
(Li, Diao, Chen & He 2022, NIID-Bench, arXiv 2102.02079; Singha et al. 2025, FL2oRA, arXiv
2512.04305).
"""

from __future__ import annotations

import numpy as np

from fl2ora.federated_data.partition._dealing import check_draw, dealt, proportions, top_up
from fl2ora.federated_data.partition.base import Indices, Partitioner, require_examples


class DirichletBalanced(Partitioner):
    """As ``dirichlet``, but class j goes only to clients that own less than ``N / num_clients``.

    Classes are dealt in the order of their labels, so the last ones go to few clients: that, too,
    is the published draw. No client can end with more than ``N / num_clients`` examples and one
    class. The published code draws again until all have ``minimum``, which need not end; here the
    largest clients give random examples to those that lack some.

    Args:
        beta: concentration; small is skewed, large is like IID.
        minimum: fewest examples of any client.
    """

    def __init__(self, beta: float = 0.5, minimum: int = 10) -> None:
        check_draw(beta, minimum)
        self.beta = beta
        self.minimum = minimum

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Share out class by class; see ``Partitioner.split``."""
        require_examples(len(labels), num_clients, self.minimum)
        decks, cuts = list[Indices](), list[Indices]()
        sizes = np.zeros(num_clients, dtype=np.int64)
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            open_to = sizes < len(labels) / num_clients
            drawn = proportions(self.beta, num_clients, rng) * open_to
            if not drawn.sum():  # a tiny beta gave all to clients that have their part
                drawn[open_to] = proportions(self.beta, int(open_to.sum()), rng)
            reached = np.cumsum(drawn / drawn.sum())
            reached[np.flatnonzero(open_to)[-1] :] = 1  # rounding leaves nothing to closed ones
            decks.append(members)
            cuts.append((reached[:-1] * len(members)).astype(np.int64))
            sizes += np.diff([0, *cuts[-1], len(members)])
        clients = [rng.permutation(share) for share in dealt(decks, cuts, num_clients)]
        return [np.sort(client) for client in top_up(clients, self.minimum)]
