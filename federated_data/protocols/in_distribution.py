"""Test images of the same domains and classes as the training images."""

from __future__ import annotations

from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.protocols.base import Federation, HeldOutPart, Protocol


class InDistribution(Protocol):
    """Train on the training split, hold out the test split."""

    def arrange(self, dataset: Dataset) -> Federation:
        """Use both splits as they are."""
        names, templates = tuple(dataset.class_names), tuple(dataset.templates)
        return Federation(
            train=dataset.split("train"),
            parts=(HeldOutPart("", dataset.split("test"), names, templates),),
            class_names=names,
            templates=templates,
            domains=tuple(dataset.domains),
            coarse_of=dataset.coarse_of,
        )
