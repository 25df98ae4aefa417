"""Domain and label skew: clients of one domain each, and label skew among those of a domain.

Singha et al. 2025, FL2oRA, arXiv 2512.04305: eight clients, two for each of four domains, beta 0.5.
"""

from __future__ import annotations

import numpy as np

from fl2ora.federated_data.partition._dealing import check_draw, shuffled_members
from fl2ora.federated_data.partition.base import (
    ExamplePartitioner,
    Examples,
    Indices,
    PartitionError,
)
from fl2ora.federated_data.partition.dirichlet import Dirichlet


class DomainDirichlet(ExamplePartitioner):
    """Each domain is shared out among its own clients as ``dirichlet`` does.

    Domains have equal numbers of clients, to within one; where that cannot be, those with the most
    examples have one more. Clients are in the order of the domains.

    Args:
        beta: concentration of the labels within a domain; small is skewed.
        minimum: fewest examples of any client.
    """

    def __init__(self, beta: float = 0.5, minimum: int = 2) -> None:
        check_draw(beta, minimum)
        self.beta = beta
        self.minimum = minimum

    def split_examples(
        self, examples: Examples, num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Divide the clients among the domains, then each domain; see ``Partitioner``."""
        members = [np.sort(own) for own in shuffled_members(examples.domains, rng)]
        if not members or num_clients < len(members):
            raise PartitionError(
                f"{num_clients} clients of one domain each need at most {num_clients} domains, and "
                f"one at least, the data has {len(members)}: use more clients"
            )
        counts = np.full(len(members), num_clients // len(members))
        largest = np.argsort([-len(own) for own in members], kind="stable")
        counts[largest[: num_clients % len(members)]] += 1
        found: list[Indices] = []
        inner = Dirichlet(self.beta, self.minimum)
        for own, clients in zip(members, counts.tolist(), strict=True):
            if len(own) < clients * self.minimum:
                raise PartitionError(
                    f"{clients} clients of a domain with at least {self.minimum} examples each "
                    f"need {clients * self.minimum}, it has {len(own)}: use fewer clients"
                )
            found += [own[part] for part in inner.split(examples.labels[own], clients, rng)]
        return found
