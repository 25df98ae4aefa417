"""What the data sets of several domains with official lists have in common."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from fl2ora.experiment.arguments import LARGEST, choice, number, whole
from fl2ora.federated_data.datasets._files import FilesDataset
from fl2ora.federated_data.datasets.base import SplitName
from fl2ora.federated_data.files import FileList
from fl2ora.federated_data.layouts.domains import chosen_domains
from fl2ora.federated_data.layouts.draw import TRAIN, VALIDATION, draw_parts
from fl2ora.federated_data.layouts.lists import check_folders, read_numbered
from fl2ora.federated_data.layouts.roots import find_root, inside, require_files
from fl2ora.federated_data.store.stored import OnBadImage

_Rows = list[tuple[str, int]]  # paths and labels


class DomainLists(FilesDataset):
    """A list of images for each domain and each of training and test.

    There is no official validation list: it is drawn from the training list, stratified by domain
    and class. A subclass names its folder, its domains and its lists.

    Args:
        root: the folder with all data sets, or the data set's own; empty: ``$FL2ORA_DATA_DIR``.
        domains: names separated by commas; empty: all.
        validation: share of each class of each domain's training list for the validation split.
        seed: another one draws other images for validation.
        whole_domains: the test split is every image of each domain, those to train on too: for
            ``leave_one_domain_out``, which trains on none of the domain it tests. Other protocols
            would test on what they train on and are refused.
        on_bad_image: what to do about an image that cannot be decoded: ``stop``, or ``skip``.

    Attributes:
        folder: name of the data set's folder.
        images: the folder in it that the lists' paths start from; ``.``: itself.
        lists: names of the lists for training and for the test, ``{}`` for the domain.
        first: the smallest label in them.
        known: names of all domains.
        broken: an image of the lists that is missing in some copies, or None.
        how: how to get the data set.

    Raises:
        UserError: a list is missing, an unknown domain, or an argument out of its range; what is
            wrong in the lists is found by ``files``.
    """

    folder: ClassVar[str]
    images: ClassVar[str]
    lists: ClassVar[tuple[str, str]]
    first: ClassVar[int]
    known: ClassVar[tuple[str, ...]]
    broken: ClassVar[str | None] = None
    how: ClassVar[str]
    templates = ("a photo of a {}.",)

    def __init__(
        self,
        root: str = "",
        domains: str = "",
        validation: float = 0.1,
        seed: int = 0,
        whole_domains: bool = False,
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        self.domains = chosen_domains(domains, self.known)
        self._validation = number("validation", validation, at_least=0, at_most=0.5)
        self._seed = whole("seed", seed, at_least=0, at_most=LARGEST)
        self._whole, self.on_bad_image = whole_domains, on_bad_image
        lists = [name.format(domain) for domain in self.domains for name in self.lists]
        images = [] if self.images == "." else [f"{self.images}/"]
        self._base = find_root(root, self.folder, [*images, *lists], self.how)
        self.notes = ()
        if self._validation:
            self.notes = (
                f"{self._validation:.0%} of each class of each domain's training list are drawn "
                f"for validation, by file name and seed {self._seed}",
            )
        if whole_domains:
            self.notes += ("the test split is every image of each domain",)

    def files(self, name: SplitName) -> FileList:
        """List one split's images, domain by domain in the order of the lists.

        Raises:
            UserError: there is no such split, a list is broken, or an image does not exist.
        """
        choice("split", name, ("train", "validation", "test"))
        found = []
        for index, domain in enumerate(self.domains):
            for source, rows in self._parts_of(domain, name):
                own = [inside(source, self._base / self.images, path) for path, _ in rows]
                require_files(source, own)
                found += [(path, label, index) for path, (_, label) in zip(own, rows, strict=True)]
        return FileList(
            tuple(path for path, _, _ in found),
            np.array([label for _, label, _ in found], dtype=np.int64),
            np.array([domain for _, _, domain in found], dtype=np.int64),
        )

    def _parts_of(self, domain: str, name: SplitName) -> list[tuple[Path, _Rows]]:
        """Return the lists that a split of a domain is made of, with their part of it."""
        train, test = (self._base / names.format(domain) for names in self.lists)
        if name == "test":
            paths = (train, test) if self._whole else (test,)
            return [(path, self._rows(path)) for path in paths]
        wanted = VALIDATION if name == "validation" else TRAIN
        return [(train, self._drawn(self._rows(train), wanted))]

    def _rows(self, path: Path) -> _Rows:
        rows = read_numbered(path, self.first)
        check_folders(path, rows, self.class_names)
        if self.broken is None or (self._base / self.images / self.broken).is_file():
            return rows
        return [row for row in rows if row[0] != self.broken]

    def _drawn(self, rows: _Rows, wanted: int) -> _Rows:
        groups, names = [(label,) for _, label in rows], [path for path, _ in rows]
        parts = draw_parts(groups, names, self._validation, 0.0, self._seed)
        return [row for row, part in zip(rows, parts, strict=True) if part == wanted]
