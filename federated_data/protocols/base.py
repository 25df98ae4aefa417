"""The contract of a protocol: which data the federation trains on and which is held out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.images import LabelledImages


@dataclass(frozen=True)
class HeldOutPart:
    """Images that only the server measures on, with the classes they are classified among.

    Attributes:
        name: of its row in every table, ``server-test/<name>``; empty for the only part.
        images: with labels that count ``class_names``.
        class_names: K names, those of the training images or others.
        templates: prompt templates of these names.
        lacking: why a node's own dataset can have no image of this part, or empty.
    """

    name: str
    images: LabelledImages
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    lacking: str = ""

    def __post_init__(self) -> None:
        """Make lists tuples, which can be told apart by."""
        _freeze(self, "class_names", "templates")


@dataclass(frozen=True)
class PartMean:
    """A row of its own: a mean over some held-out parts.

    Attributes:
        name: of the row, ``server-test/<name>``.
        parts: the names of the parts.
        harmonic: the harmonic mean of the accuracies, and of nothing else; else the plain mean of
            every metric.
    """

    name: str
    parts: tuple[str, ...]
    harmonic: bool = False


@dataclass(frozen=True)
class Federation:
    """The data of a run before it is divided among clients.

    Attributes:
        train: what clients share among them.
        parts: held out centrally; no client ever sees them.
        class_names: K names of the training images, the same for all clients.
        templates: prompt templates.
        domains: names of the domains of the training images.
        notes: sentences on the data for the run's record.
        means: rows over several parts.
        coarse_of: the superclass of each class, where the dataset has such.
        shots: most training images of a class on one client; None: all.
        repeated: some training images are equal, byte by byte.
    """

    train: LabelledImages
    parts: tuple[HeldOutPart, ...]
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    domains: tuple[str, ...]
    notes: tuple[str, ...] = ()
    means: tuple[PartMean, ...] = ()
    coarse_of: tuple[int, ...] | None = None
    shots: int | None = None
    repeated: bool = False

    def __post_init__(self) -> None:
        """Make lists tuples, which can be told apart by."""
        _freeze(self, "parts", "class_names", "templates", "domains", "notes", "means")


def _freeze(described: HeldOutPart | Federation, *names: str) -> None:
    for name in names:
        if isinstance(value := getattr(described, name), list):
            object.__setattr__(described, name, tuple(value))


class Protocol(ABC):
    """Decides what is held out; constructor arguments are what a spec string may set.

    Attributes:
        new_classes: it holds out classes that nobody trains on.
        others: further datasets it reads, besides the run's.
    """

    new_classes: bool = False
    others: tuple[Dataset, ...] = ()

    @abstractmethod
    def arrange(self, dataset: Dataset) -> Federation:
        """Return the federation's training and held-out data.

        Raises:
            ValueError: the dataset does not have what the protocol needs.
        """

    def arrange_own(self, dataset: Dataset) -> Federation:
        """Return the same of a dataset that is one node's own.

        What is held out may be missing there, such as a domain: that part then has no image, and
        says why. Other datasets than the node's own are not read.

        Raises:
            ValueError: see ``arrange``.
        """
        return self.arrange(dataset)

    def own_means(self, parts: tuple[str, ...]) -> tuple[PartMean, ...]:
        """Return rows over parts of these names, which nodes hold out of data of their own."""
        return ()
