"""Pathological label skew: shards of examples sorted by class.

McMahan, Moore, Ramage, Hampson & Agüera y Arcas 2017, arXiv 1602.05629, section 3.
"""

from __future__ import annotations

import numpy as np

from fl2ora.experiment.arguments import whole
from fl2ora.federated_data.partition._dealing import shuffled_members
from fl2ora.federated_data.partition.base import Indices, Partitioner, require_examples


class Shards(Partitioner):
    """Examples sorted by class are cut into equal shards; every client gets ``per_client`` of them.

    A shard may lie across two classes. Sizes of shards differ by at most one.

    Args:
        per_client: shards of each client.
    """

    def __init__(self, per_client: int = 2) -> None:
        self.per_client = whole("per_client", per_client, at_least=1)

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Deal the shards at random; see ``Partitioner.split``."""
        require_examples(len(labels), num_clients, self.per_client)
        by_class = np.concatenate(shuffled_members(labels, rng))
        shards = np.array_split(by_class, num_clients * self.per_client)
        hands = rng.permutation(len(shards)).reshape(num_clients, self.per_client)
        return [np.sort(np.concatenate([shards[index] for index in hand])) for hand in hands]
