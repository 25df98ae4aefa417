"""Size skew: clients draw from the same distribution and own very different numbers of examples.

Li, Diao, Chen & He 2022, NIID-Bench, arXiv 2102.02079 ("quantity skew").
"""

from __future__ import annotations

import numpy as np

from fl2ora.federated_data.partition._dealing import check_draw, proportions, top_up
from fl2ora.federated_data.partition.base import Indices, Partitioner, require_examples


class Quantity(Partitioner):
    """Shuffled examples in parts of sizes ``q ~ Dirichlet(beta, ..., beta)``.

    Clients left with fewer than ``minimum`` examples are given random ones from the largest.

    Args:
        beta: concentration; small is skewed, large gives equal sizes.
        minimum: fewest examples of any client.
    """

    def __init__(self, beta: float = 0.5, minimum: int = 10) -> None:
        check_draw(beta, minimum)
        self.beta = beta
        self.minimum = minimum

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Cut a shuffled deck at random places; see ``Partitioner.split``."""
        require_examples(len(labels), num_clients, self.minimum)
        order = rng.permutation(len(labels))
        drawn = proportions(self.beta, num_clients, rng)
        cuts = np.round(np.cumsum(drawn)[:-1] * len(labels)).astype(np.int64)
        return [np.sort(part) for part in top_up(np.split(order, cuts), self.minimum)]
