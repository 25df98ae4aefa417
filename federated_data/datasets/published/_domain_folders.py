"""What the data sets in ``domain/class/image`` folders without an official split have in common."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fl2ora.experiment.arguments import choice, number
from fl2ora.federated_data.datasets.base import SplitName
from fl2ora.federated_data.datasets.published._domain_files import DomainFiles, listed
from fl2ora.federated_data.files import FileList
from fl2ora.federated_data.layouts.domains import (
    class_folders,
    domain_folders,
    images_of,
)
from fl2ora.federated_data.layouts.draw import TEST, TRAIN, VALIDATION, draw_parts
from fl2ora.federated_data.layouts.roots import find_root
from fl2ora.federated_data.store.stored import OnBadImage

_PARTS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


class DomainFolders(DomainFiles):
    """Domains of folders, divided by a draw that is stratified by domain and class.

    A subclass names its folder, its domains and their folders.

    Args:
        root: the folder with all data sets, or the data set's own; empty: ``$FL2ORA_DATA_DIR``.
        domains: see ``DomainFiles``.
        validation: see there.
        test: share of each class of each domain for the test split.
        seed: see ``DomainFiles``.
        whole_domains: see there.
        on_bad_image: see there.

    Attributes:
        names: what their folders are called; case, spaces, hyphens and underscores do not matter.
        classes: names of the classes' folders; None: read from the domains'.

    Raises:
        UserError: a folder is missing or is no class's, or an argument out of its range.
    """

    names: ClassVar[tuple[str, ...]]
    classes: ClassVar[tuple[str, ...] | None] = None

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
        super().__init__(domains, validation, seed, whole_domains, on_bad_image)
        self._test = number("test", test, above=0, at_most=0.5)
        names = dict(zip(self.known, self.names, strict=True))
        called = {domain: names[domain] for domain in self.domains}
        self._base = find_root(
            root, self.folder, [f"{name}/" for name in called.values()], self.how
        )
        self._folders = domain_folders(self._base, called)
        self.class_names = class_folders(self._folders, self.classes)
        validating = f" and {self._validation:.0%} for validation" if self._validation else ""
        self.notes = (
            f"no official split: {self._test:.0%} of each class of each domain are drawn for the "
            f"test{validating}, by file name and seed {self._seed}",
            *self.notes,
        )

    def files(self, name: SplitName) -> FileList:
        """List one split's images, domain by domain and class by class.

        Raises:
            UserError: there is no such split, or a class has no image.
        """
        part = _PARTS[choice("split", name, _PARTS)]
        every = self._whole and part == TEST
        parts = zip(self._rows, self._drawn, strict=True)
        return listed([row for row, own in parts if every or own == part])

    @cached_property
    def _rows(self) -> list[tuple[Path, int, int]]:
        return images_of(self._folders, self.class_names)

    @cached_property
    def _drawn(self) -> NDArray[np.int64]:
        """The part of each image; it depends on names below the data set's folder alone."""
        names = [path.relative_to(self._base).as_posix() for path, _, _ in self._rows]
        groups = [(domain, label) for _, label, domain in self._rows]
        return draw_parts(groups, names, self._validation, self._test, self._seed)
