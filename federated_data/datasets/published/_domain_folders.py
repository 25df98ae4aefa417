"""What the data sets in ``domain/class/image`` folders without an official split have in common."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fl2ora.experiment.arguments import LARGEST, choice, number, whole
from fl2ora.federated_data.datasets._files import FilesDataset
from fl2ora.federated_data.datasets.base import SplitName
from fl2ora.federated_data.files import FileList
from fl2ora.federated_data.layouts.domains import (
    chosen_domains,
    class_folders,
    domain_folders,
    images_of,
)
from fl2ora.federated_data.layouts.draw import TEST, TRAIN, VALIDATION, draw_parts
from fl2ora.federated_data.layouts.roots import find_root
from fl2ora.federated_data.store.stored import OnBadImage

_PARTS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


class DomainFolders(FilesDataset):
    """Domains of folders, divided by a draw that is stratified by domain and class.

    A subclass names its folder and its domains.

    Args:
        root: the folder with all data sets, or the data set's own; empty: ``$FL2ORA_DATA_DIR``.
        domains: names separated by commas; empty: all.
        validation: share of each class of each domain for the validation split.
        test: share of each class of each domain for the test split.
        seed: another one draws other splits.
        whole_domains: the test split is every image of each domain, those to train on too: for
            ``leave_one_domain_out``, which trains on none of the domain it tests. Other protocols
            would test on what they train on and are refused.
        on_bad_image: what to do about an image that cannot be decoded: ``stop``, or ``skip``.

    Attributes:
        folder: name of the data set's folder.
        known: names of all domains.
        names: what their folders are called; case, spaces, hyphens and underscores do not matter.
        classes: names of the classes' folders; None: read from the domains'.
        how: how to get the data set.

    Raises:
        UserError: a folder is missing or is no class's, or an argument out of its range.
    """

    folder: ClassVar[str]
    known: ClassVar[tuple[str, ...]]
    names: ClassVar[tuple[str, ...]]
    classes: ClassVar[tuple[str, ...] | None] = None
    how: ClassVar[str]
    templates = ("a photo of a {}.",)

    def __init__(
        self,
        root: str = "",
        domains: str = "",
        validation: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
        whole_domains: bool = False,
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        self.domains = chosen_domains(domains, self.known)
        self._validation = number("validation", validation, at_least=0, at_most=0.5)
        self._test = number("test", test, above=0, at_most=0.5)
        self._seed = whole("seed", seed, at_least=0, at_most=LARGEST)
        names = dict(zip(self.known, self.names, strict=True))
        called = {domain: names[domain] for domain in self.domains}
        self._whole, self.on_bad_image = whole_domains, on_bad_image
        self._base = find_root(
            root, self.folder, [f"{name}/" for name in called.values()], self.how
        )
        self._folders = domain_folders(self._base, called)
        self.class_names = class_folders(self._folders, self.classes)
        validating = f" and {self._validation:.0%} for validation" if self._validation else ""
        self.notes = (
            f"no official split: {self._test:.0%} of each class of each domain are drawn for the "
            f"test{validating}, by file name and seed {self._seed}",
        )
        if whole_domains:
            self.notes += ("the test split is every image of each domain",)

    def files(self, name: SplitName) -> FileList:
        """List one split's images, domain by domain and class by class.

        Raises:
            UserError: there is no such split, or a class has no image.
        """
        part = _PARTS[choice("split", name, _PARTS)]
        every = self._whole and part == TEST
        rows = [
            row for row, own in zip(self._rows, self._drawn, strict=True) if every or own == part
        ]
        return FileList(
            tuple(path for path, _, _ in rows),
            np.array([label for _, label, _ in rows], dtype=np.int64),
            np.array([domain for _, _, domain in rows], dtype=np.int64),
        )

    @cached_property
    def _rows(self) -> list[tuple[Path, int, int]]:
        return images_of(self._folders, self.class_names)

    @cached_property
    def _drawn(self) -> NDArray[np.int64]:
        """The part of each image; it depends on names below the data set's folder alone."""
        names = [path.relative_to(self._base).as_posix() for path, _, _ in self._rows]
        groups = [(domain, label) for _, label, domain in self._rows]
        return draw_parts(groups, names, self._validation, self._test, self._seed)
