"""Pathological label skew: every client has examples of just so many classes.

Li, Diao, Chen & He 2022, NIID-Bench, arXiv 2102.02079 ("#C = k"); Collins et al. 2021, arXiv
2102.07078.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl2ora.experiment.arguments import whole
from fl2ora.federated_data.partition._dealing import shuffled_members
from fl2ora.federated_data.partition.base import Indices, Partitioner, PartitionError


class Classes(Partitioner):
    """Every client owns ``per_client`` classes, and an equal part of each with its other owners.

    Classes have equal numbers of owners, to within one, drawn at random.

    Args:
        per_client: classes of each client.
    """

    def __init__(self, per_client: int = 2) -> None:
        self.per_client = whole("per_client", per_client, at_least=1)

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Deal classes, then their examples; see ``Partitioner.split``."""
        members = shuffled_members(labels, rng)
        count, each = len(members), self.per_client
        if not each <= count <= num_clients * each:
            raise PartitionError(
                f"{num_clients} clients with {each} classes each need from {each} to "
                f"{num_clients * each} classes, so that all are dealt, the data has {count}"
            )
        owners = self._owners(count, num_clients, rng)
        shares: list[list[Indices]] = [[] for _ in range(num_clients)]
        for label, own, examples in zip(np.unique(labels), owners, members, strict=True):
            if len(examples) < len(own):
                raise PartitionError(
                    f"class {label} has {len(examples)} examples for its {len(own)} owners: use "
                    "fewer clients, fewer classes per client or more data"
                )
            for client, part in zip(own, np.array_split(examples, len(own)), strict=True):
                shares[client].append(part)
        return [np.sort(np.concatenate(share)) for share in shares]

    def _owners(
        self, count: int, num_clients: int, rng: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        """Return each class's clients, in random order: client by client the least owned classes.

        So no class is ever two owners ahead of another.
        """
        owned = np.zeros(count, dtype=np.int64)
        found: list[list[int]] = [[] for _ in range(count)]
        for client in rng.permutation(num_clients):
            for index in np.lexsort((rng.random(count), owned))[: self.per_client]:
                owned[index] += 1
                found[index].append(client)
        return [rng.permutation(clients) for clients in found]
