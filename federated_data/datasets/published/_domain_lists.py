"""What the data sets of several domains with official lists have in common."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fl2ora.experiment.arguments import choice
from fl2ora.federated_data.datasets.base import SplitName
from fl2ora.federated_data.datasets.published._domain_files import DomainFiles, listed
from fl2ora.federated_data.files import FileList
from fl2ora.federated_data.layouts.draw import TRAIN, VALIDATION, draw_parts
from fl2ora.federated_data.layouts.lists import check_folders, read_numbered
from fl2ora.federated_data.layouts.roots import find_root, inside, require_files
from fl2ora.federated_data.store.stored import OnBadImage

_Rows = list[tuple[str, int]]  # paths and labels


class DomainLists(DomainFiles):
    """A list of images for each domain and each of training and test.

    There is no official validation list: it is drawn from the training list, stratified by domain
    and class. A subclass names its folder, its domains and its lists.

    Args:
        root: the folder with all data sets, or the data set's own; empty: ``$FL2ORA_DATA_DIR``.
        domains: see ``DomainFiles``.
        validation: see there; drawn from the training lists.
        seed: see there.
        whole_domains: see there.
        on_bad_image: see there.

    Attributes:
        images: the folder in it that the lists' paths start from; ``.``: itself.
        lists: names of the lists for training and for the test, ``{}`` for the domain.
        first: the smallest label in them.
        broken: an image of the lists that is missing in some copies, or None.

    Raises:
        UserError: a list is missing, an unknown domain, or an argument out of its range; what is
            wrong in the lists is found by ``files``.
    """

    images: ClassVar[str]
    lists: ClassVar[tuple[str, str]]
    first: ClassVar[int]
    broken: ClassVar[str | None] = None

    def __init__(
        self,
        root: str = "",
        domains: str = "",
        validation: float = 0.1,
        seed: int = 0,
        whole_domains: bool = False,
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        super().__init__(domains, validation, seed, whole_domains, on_bad_image)
        lists = [name.format(domain) for domain in self.domains for name in self.lists]
        images = [] if self.images == "." else [f"{self.images}/"]
        self._base = find_root(root, self.folder, [*images, *lists], self.how)
        if self._validation:
            self.notes = (
                f"{self._validation:.0%} of each class of each domain's training list are drawn "
                f"for validation, by file name and seed {self._seed}",
                *self.notes,
            )

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
        return listed(found)

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
