"""Domain generalisation: test on a domain that no client has."""

from __future__ import annotations

from dataclasses import replace

from fl2ora.experiment.errors import listed, nearest, shown
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.protocols.base import Federation, Protocol
from fl2ora.federated_data.protocols.in_distribution import InDistribution


class LeaveOneDomainOut(Protocol):
    """Train on every domain but one, hold out the test images of that one.

    Args:
        domain: name of the domain left out (Gulrajani & Lopez-Paz 2020, arXiv 2007.01434).
    """

    def __init__(self, domain: str) -> None:
        self.domain = domain

    def arrange(self, dataset: Dataset) -> Federation:
        """Filter both splits by domain; see ``Protocol.arrange``."""
        if self.domain not in dataset.domains or len(dataset.domains) < 2:
            raise ValueError(
                f"domain: expected one of the dataset's two or more domains "
                f"({listed(dataset.domains)}), found {self.domain!r}"
                f"{nearest(self.domain, dataset.domains)}"
            )
        return self.arrange_own(dataset)

    def arrange_own(self, dataset: Dataset) -> Federation:
        """Filter both splits; a node without this domain trains on all that it has."""
        whole = InDistribution().arrange(dataset)
        names = tuple(dataset.domains)
        left_out = names.index(self.domain) if self.domain in names else -1
        lacking = f"{shown(self.domain)} is not among its domains ({listed(names)})"
        (part,) = whole.parts
        held_out = part.images.select((part.images.domains == left_out).nonzero()[:, 0])
        return replace(
            whole,
            train=whole.train.select((whole.train.domains != left_out).nonzero()[:, 0]),
            parts=(replace(part, images=held_out, lacking=lacking if left_out < 0 else ""),),
        )
