"""Label skew: each class is shared out by a draw from a symmetric Dirichlet distribution.

Hsu, Qi & Brown 2019, arXiv 1909.06335, in the class-wise form of Yurochkin et al. 2019, arXiv
1905.12022.
"""

from __future__ import annotations

import numpy as np

from fl2ora.federated_data.partition._dealing import (
    check_draw,
    dealt,
    proportions,
    top_up,
)
from fl2ora.federated_data.partition.base import Indices, Partitioner, require_examples


class Dirichlet(Partitioner):
    """Class j goes to the clients in proportions ``q_j ~ Dirichlet(beta, ..., beta)``.

    One draw is made; clients left with fewer than ``minimum`` examples are then given random ones
    from the largest clients. So every feasible request ends, which drawing again until all clients
    have enough does not.

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
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            drawn = proportions(self.beta, num_clients, rng)
            decks.append(members)
            cuts.append(np.round(np.cumsum(drawn)[:-1] * len(members)).astype(np.int64))
        clients = [rng.permutation(share) for share in dealt(decks, cuts, num_clients)]
        return [np.sort(client) for client in top_up(clients, self.minimum)]
