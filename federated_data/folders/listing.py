"""What is known of image files before any is opened: where each lies, and what it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fl2ora.experiment.errors import UserError, nearest, shown
from fl2ora.federated_data.files import FileList

Split = Literal["train", "validation", "test"]
SPLITS: dict[str, Split] = {
    "train": "train", "training": "train", "trn": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
"""What folders and tables call the splits."""


@dataclass(frozen=True)
class Listing:
    """N image files, each with the words that folders or a table say of it.

    Attributes:
        paths: of the files.
        labels: of each, the name of its class.
        domains: of each; None if there is one domain.
        clients: of each, whose it is; None if nobody's.
        splits: of each, its split; None if they are not given.
        classes: names of all classes, whether or not they have images; sorted.
        notes: sentences for the run's record.
    """

    paths: Sequence[str]
    labels: Sequence[str]
    domains: Sequence[str] | None
    clients: Sequence[str] | None
    splits: Sequence[Split] | None
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def domain_names(self) -> tuple[str, ...]:
        """Names of all domains, sorted."""
        return ("all",) if self.domains is None else tuple(sorted(set(self.domains)))

    def file_list(self, classes: Sequence[str]) -> FileList:
        """Return the files with numbers for names.

        Args:
            classes: names of the classes, in label order.
        """
        label_of = {name: label for label, name in enumerate(classes)}
        domain_of = {name: domain for domain, name in enumerate(self.domain_names)}
        count = len(self.paths)
        domains = (
            np.zeros(count, np.int64)
            if self.domains is None
            else np.fromiter((domain_of[name] for name in self.domains), np.int64, count)
        )
        return FileList(
            tuple(self.paths),
            np.fromiter((label_of[name] for name in self.labels), np.int64, count),
            domains,
            None if self.clients is None else tuple(self.clients),
        )


def split_named(word: str, where: str) -> Split:
    """Return the split that a word stands for.

    Raises:
        UserError: it stands for none; the message begins with ``where``.
    """
    found = SPLITS.get(word.strip().casefold())
    if found is None:
        raise UserError(
            f"{where}: expected train, validation or test, found {shown(word)}"
            f"{nearest(word, SPLITS)}"
        )
    return found
