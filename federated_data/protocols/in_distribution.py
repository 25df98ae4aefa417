"""Test images of the same domains and classes as the training images."""

from __future__ import annotations

from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.protocols.base import Federation, Protocol


class InDistribution(Protocol):
    """Train on the training split, hold out the test split."""

    def arrange(self, dataset: Dataset) -> Federation:
        """Use both splits as they are."""
        return Federation(
            train=dataset.split("train"),
            test=dataset.split("test"),
            class_names=tuple(dataset.class_names),
            templates=tuple(dataset.templates),
            domains=tuple(dataset.domains),
        )
