"""Several domains, all of them trained and tested on: no domain is new to anyone."""

from __future__ import annotations

from dataclasses import replace

from fl2ora.experiment.errors import listed
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.protocols.base import Federation, PartMean, Protocol
from fl2ora.federated_data.protocols.in_distribution import InDistribution


class InDomain(Protocol):
    """Train on the training split; each domain of the test split is a part of its own.

    Often reported as domain generalisation, which it is not: see ``leave_one_domain_out``.
    """

    def arrange(self, dataset: Dataset) -> Federation:
        """Divide the test split by domain; see ``Protocol.arrange``."""
        if len(dataset.domains) < 2:
            raise ValueError(
                f"in_domain: expected a dataset of two or more domains, found "
                f"{listed(dataset.domains)}"
            )
        return self.arrange_own(dataset)

    def arrange_own(self, dataset: Dataset) -> Federation:
        """Divide the test split by domain, be there one or more."""
        whole = InDistribution().arrange(dataset)
        (test,) = whole.parts
        parts = tuple(
            replace(
                test,
                name=domain,
                images=test.images.select((test.images.domains == index).nonzero()[:, 0]),
            )
            for index, domain in enumerate(dataset.domains)
        )
        return replace(whole, parts=parts, means=self.own_means(tuple(dataset.domains)))

    def own_means(self, parts: tuple[str, ...]) -> tuple[PartMean, ...]:
        """Return the mean over all domains."""
        return (PartMean("mean", parts),)
