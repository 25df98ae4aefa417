"""Domain skew: every client has images of one domain."""

from __future__ import annotations

import numpy as np

from fl2ora.federated_data.partition._dealing import shuffled_members
from fl2ora.federated_data.partition.base import (
    ExamplePartitioner,
    Examples,
    Indices,
    PartitionError,
)


class Domains(ExamplePartitioner):
    """Every domain is one client's; with n times as many clients, n clients share each equally.

    Clients are in the order of the domains: the first n have the first domain.
    """

    def split_examples(
        self, examples: Examples, num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Cut each domain into equal parts; see ``Partitioner.split_examples``."""
        members = shuffled_members(examples.domains, rng)
        if not members or num_clients % len(members):
            raise PartitionError(
                f"{num_clients} clients of one domain each need a number of domains that divides "
                f"{num_clients}, the data has {len(members)}: use domain_dirichlet for others"
            )
        each = num_clients // len(members)
        smallest = min(map(len, members))
        if smallest < each:
            raise PartitionError(
                f"{each} clients for each domain need {each} examples of it, one has {smallest}: "
                "use fewer clients"
            )
        return [np.sort(part) for owned in members for part in np.array_split(owned, each)]
