"""A few training images of each class; what is tested on is another protocol's."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from fl2ora.experiment.arguments import LARGEST, whole
from fl2ora.experiment.plugins import load
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.few import few_of_each
from fl2ora.federated_data.protocols.base import Federation, PartMean, Protocol


class FewShot(Protocol):
    """Train on ``shots`` images of each class.

    Args:
        shots: k, how many images of each class.
        per: ``class``: k of each class in all, drawn before they are divided among the clients,
            who then hold out their part for measuring and calibrating as always; ``client``: every
            client trains on at most k of each of its classes, and holds out as if it had all.
        then: the protocol that says what is trained and tested on, such as ``base_to_new``.
        seed: decides which images; with ``per='client'`` the run's seed does.
    """

    def __init__(
        self,
        shots: int = 16,
        per: Literal["class", "client"] = "class",
        then: str = "in_distribution",
        seed: int = 0,
    ) -> None:
        self.shots = whole("shots", shots, at_least=1)
        self.per = per
        self.seed = whole("seed", seed, at_least=0, at_most=LARGEST)
        self.then = load(then, Protocol)
        if isinstance(self.then, FewShot):
            raise ValueError("then: expected another protocol, found few_shot inside few_shot")
        self.new_classes, self.others = self.then.new_classes, self.then.others

    def arrange(self, dataset: Dataset) -> Federation:
        """Thin out the training images of another protocol; see ``Protocol.arrange``."""
        return self._thinned(self.then.arrange(dataset))

    def arrange_own(self, dataset: Dataset) -> Federation:
        """Do the same with a node's own dataset."""
        return self._thinned(self.then.arrange_own(dataset))

    def own_means(self, parts: tuple[str, ...]) -> tuple[PartMean, ...]:
        """Return those of the other protocol."""
        return self.then.own_means(parts)

    def _thinned(self, found: Federation) -> Federation:
        if self.per == "client":
            note = f"clients train on at most {self.shots} images of a class each"
            return replace(found, shots=self.shots, notes=(*found.notes, note))
        rng = np.random.default_rng(derive_seed(self.seed, "few-shot"))
        train = found.train.select(few_of_each(found.train.labels, self.shots, rng))
        counts = np.bincount(train.labels.numpy(), minlength=len(found.class_names))
        note = f"{len(train)} training images, at most {self.shots} of a class"
        short = int((counts < self.shots).sum())
        note += f"; {short} classes have fewer" if short else ""
        return replace(found, train=train, notes=(*found.notes, note))
