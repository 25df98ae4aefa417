"""The division the data came with: by photographer, writer or device.

Caldas et al. 2018, LEAF, arXiv 1812.01097.
"""

from __future__ import annotations

import numpy as np

from fl2ora.federated_data.partition._dealing import shuffled_members
from fl2ora.federated_data.partition.base import (
    ExamplePartitioner,
    Examples,
    Indices,
    PartitionError,
)


class Natural(ExamplePartitioner):
    """Every client has the examples of one natural client, or of several where there are more.

    With as many clients as there are natural ones, they are in the order of those' names. Otherwise
    the natural ones are dealt at random, each whole; their numbers differ by at most one.
    """

    def split_examples(
        self, examples: Examples, num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Deal the natural clients; see ``Partitioner.split_examples``."""
        if examples.clients is None:
            raise PartitionError(
                "the examples name no clients of their own (LabelledImages.clients): use another "
                "partition"
            )
        members = [np.sort(own) for own in shuffled_members(examples.clients, rng)]
        if len(members) < num_clients:
            raise PartitionError(
                f"{num_clients} clients need as many natural ones, the data has {len(members)}: "
                "use fewer clients"
            )
        if len(members) == num_clients:
            return members
        hands = np.array_split(rng.permutation(len(members)), num_clients)
        return [np.sort(np.concatenate([members[index] for index in hand])) for hand in hands]
