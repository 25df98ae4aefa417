"""What the data sets of several domains have in common, however their files are listed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from fl2ora.experiment.arguments import LARGEST, number, whole
from fl2ora.federated_data.datasets._files import FilesDataset
from fl2ora.federated_data.files import FileList
from fl2ora.federated_data.layouts.domains import chosen_domains
from fl2ora.federated_data.store.stored import OnBadImage


class DomainFiles(FilesDataset):
    """Domains of which a part may be chosen, and a validation split that is drawn.

    Args:
        domains: names separated by commas; empty: all.
        validation: share of each class of each domain for the validation split.
        seed: another one draws other splits.
        whole_domains: the test split is every image of each domain, those to train on too: for
            ``leave_one_domain_out``, which trains on none of the domain it tests. Other protocols
            would test on what they train on and are refused.
        on_bad_image: what to do about an image that cannot be decoded: ``stop``, or ``skip``.

    Attributes:
        folder: name of the data set's folder.
        known: names of all domains.
        how: how to get the data set.

    Raises:
        UserError: an unknown domain, or an argument out of its range.
    """

    folder: ClassVar[str]
    known: ClassVar[tuple[str, ...]]
    how: ClassVar[str]
    templates = ("a photo of a {}.",)

    def __init__(
        self,
        domains: str,
        validation: float,
        seed: int,
        whole_domains: bool,
        on_bad_image: OnBadImage,
    ) -> None:
        self.domains = chosen_domains(domains, self.known)
        self._validation = number("validation", validation, at_least=0, at_most=0.5)
        self._seed = whole("seed", seed, at_least=0, at_most=LARGEST)
        self._whole, self.on_bad_image = whole_domains, on_bad_image
        self.notes = ()
        if whole_domains:
            self.remark("the test split is every image of each domain")


def listed(rows: Sequence[tuple[Path, int, int]]) -> FileList:
    """Return image files with their labels and the indices of their domains."""
    return FileList(
        tuple(path for path, _, _ in rows),
        np.array([label for _, label, _ in rows], dtype=np.int64),
        np.array([domain for _, _, domain in rows], dtype=np.int64),
    )
