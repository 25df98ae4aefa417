"""Equal shares of shuffled data."""

from __future__ import annotations

import numpy as np

from fl2ora.federated_data.partition.base import Indices, Partitioner, require_examples


class Iid(Partitioner):
    """Every client draws from the same distribution; sizes differ by at most one."""

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Deal a shuffled deck; see ``Partitioner.split``."""
        require_examples(len(labels), num_clients, 1)
        order = rng.permutation(len(labels))
        return [np.sort(part) for part in np.array_split(order, num_clients)]
