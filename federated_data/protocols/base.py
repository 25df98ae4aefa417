"""The contract of a protocol: which data the federation trains on and which is held out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.images import LabelledImages


@dataclass(frozen=True)
class Federation:
    """The data of a run before it is divided among clients.

    Attributes:
        train: what clients share among them.
        test: held out centrally; no client ever sees it.
        class_names: K names, the same for all.
        templates: prompt templates.
        domains: names of the domains.
        notes: sentences on the data for the run's record.
    """

    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    domains: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Protocol(ABC):
    """Decides what is held out; constructor arguments are what a spec string may set."""

    @abstractmethod
    def arrange(self, dataset: Dataset) -> Federation:
        """Return the federation's training and held-out data.

        Raises:
            ValueError: the dataset does not have what the protocol needs.
        """
