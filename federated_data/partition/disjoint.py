"""Extreme label skew: no class is on two clients.

The few-shot benchmarks of federated prompt learning divide classes so (Li et al. 2024, FedOTP,
arXiv 2403.00041; Singha et al. 2025, FL2oRA, arXiv 2512.04305).
"""

from __future__ import annotations

import numpy as np

from fl2ora.federated_data.partition._dealing import shuffled_members
from fl2ora.federated_data.partition.base import Indices, Partitioner, PartitionError


class Disjoint(Partitioner):
    """Classes are dealt to the clients at random, each whole; numbers differ by at most one."""

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Deal classes; see ``Partitioner.split``."""
        members = shuffled_members(labels, rng)
        if len(members) < num_clients:
            raise PartitionError(
                f"{num_clients} clients with classes of their own need {num_clients} classes, the "
                f"data has {len(members)}: use fewer clients"
            )
        hands = np.array_split(rng.permutation(len(members)), num_clients)
        return [np.sort(np.concatenate([members[index] for index in hand])) for hand in hands]
