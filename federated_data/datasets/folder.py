"""A folder of photographs: one with a sub-folder for each class, or any with a table of labels."""

from __future__ import annotations

from collections import Counter
from functools import cached_property

import numpy as np

from fl2ora.experiment.arguments import LARGEST, choice, number, whole
from fl2ora.experiment.errors import UserError, shown
from fl2ora.experiment.paths import user_file, user_path, what_is_at
from fl2ora.federated_data.datasets._files import FilesDataset
from fl2ora.federated_data.datasets._templates import as_templates
from fl2ora.federated_data.datasets.base import SplitName
from fl2ora.federated_data.files import FileList
from fl2ora.federated_data.folders.class_names import named_classes
from fl2ora.federated_data.folders.fractions import split_by_content
from fl2ora.federated_data.folders.listing import Listing, Split
from fl2ora.federated_data.folders.table import list_table
from fl2ora.federated_data.folders.tree import list_tree, parse_layout
from fl2ora.federated_data.store.contents import file_digests
from fl2ora.federated_data.store.stored import OnBadImage

_OPTIONAL = ("domain", "client", "split")


class Folder(FilesDataset):
    """Images in folders ``class/``, ``domain/class/`` or ``train|val|test/class/``, or in a table.

    Where nobody says which images are for testing, they are drawn by their content: new images move
    no old one, and copies stay together.

    Args:
        path: the folder; what a table's relative paths start from.
        table_file: a ``.csv``, ``.tsv`` or ``.parquet`` with a line for each image; empty: the
            sub-folders say it all.
        layout: what the folders of each level are: ``class``, ``domain``, ``client``, ``split`` or
            ``any``, joined by slashes, such as ``client/class``; ``auto``: one of the three above.
        classes_file: a line for each class, in label order: its name in folders or table, and, if
            it differs, a tab, a comma or a space and its name in prompts; empty: names in
            alphabetical order, with spaces for underscores.
        templates: a prompt with ``{}`` for the class name, or a list of them.
        validation: fraction of validation images, where no split is given.
        test: fraction of test images, where no split is given.
        seed: of that draw.
        columns: what the table calls its columns ``path``, ``label``, ``domain``, ``client`` and
            ``split``, of those that have another name. The last three may be missing unless named.
        on_bad_image: ``stop``, or ``skip`` what cannot be decoded and say so.

    Raises:
        UserError: an argument out of its range, or there is no such folder or file; what is in them
            is read when it is needed.
    """

    def __init__(
        self,
        path: str,
        table_file: str = "",
        layout: str = "auto",
        classes_file: str = "",
        templates: str | list[str] = "a photo of a {}.",
        validation: float = 0.0,
        test: float = 0.2,
        seed: int = 0,
        columns: dict[str, str] | None = None,
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        self._root = user_path(path)
        if not path or not self._root.is_dir():
            found = f"{what_is_at(self._root)}: {self._root.absolute()}" if path else "''"
            raise UserError(f"path: expected a folder, found {found}")
        self._table = user_file("table_file", table_file)
        self._classes_file = user_file("classes_file", classes_file)
        self._levels = parse_layout(layout)
        if self._table and self._levels:
            raise UserError("layout: expected auto beside a table_file, which says what images are")
        self.templates = as_templates(templates)
        self._validation = number("validation", validation, at_least=0, below=1)
        self._test = number("test", test, above=0, below=1)
        if self._validation + self._test >= 1:
            raise UserError(
                "validation: expected less than 1 together with test, found "
                f"{self._validation:g} and {self._test:g}"
            )
        self._seed = whole("seed", seed, at_least=0, at_most=LARGEST)
        self._columns = _checked_columns(columns or {})
        self._needed = set(columns or {})
        self.on_bad_image = on_bad_image

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names as in prompts, in label order."""
        return tuple(self._named.values())

    @cached_property
    def domains(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of folders or of the table's column, in alphabetical order."""
        return self._listing.domain_names

    def files(self, name: SplitName) -> FileList:
        """Return the files of one split; see ``FilesDataset``."""
        choice("split", name, ("train", "validation", "test"))
        rows = np.array([row for row, split in enumerate(self._splits) if split == name], np.int64)
        return self._all_files.select(rows)

    @cached_property
    def _listing(self) -> Listing:
        if self._table is None:
            found = list_tree(self._root, self._levels)
        else:
            found = list_table(self._root, self._table, self._columns, self._needed)
        self.remark(*found.notes)
        return found

    @cached_property
    def _named(self) -> dict[str, str]:
        """Names of the classes in prompts, by those in folders; each has images."""
        listing = self._listing
        counts = Counter(listing.labels)
        for name in listing.classes:
            if not counts[name]:
                raise UserError(f"{self._root}: class {shown(name)} has no images")
        return named_classes(listing.classes, self._classes_file)

    @cached_property
    def _all_files(self) -> FileList:
        return self._listing.file_list(tuple(self._named))

    @cached_property
    def _splits(self) -> list[Split]:
        """Each file's split; every class has training images."""
        given = self._listing.splits
        splits = self._drawn() if given is None else self._given(list(given))
        for name in ("train", "test"):
            if name not in splits:
                raise UserError(f"{self._root}: the {name} split has no images")
        if left := splits.count("validation"):
            self.remark(f"the {left:,} validation images are left out")
        labels = self._all_files.labels
        trained = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
        for label, name in enumerate(self._named):
            if label not in trained:
                advice = "" if given else "; another seed draws others"
                raise UserError(f"{self._root}: class {shown(name)} has no training images{advice}")
        return splits

    def _drawn(self) -> list[Split]:
        contents = file_digests(self._all_files.paths)
        return split_by_content(contents, self._validation, self._test, self._seed)

    def _given(self, splits: list[Split]) -> list[Split]:
        """Return the splits as they are; validation images are tested on if no others are there."""
        if "test" in splits or "validation" not in splits:
            return splits
        said = "there are no test images: the validation images are tested on"
        self.remark(said)
        return ["test" if split == "validation" else split for split in splits]


def _checked_columns(given: dict[str, str]) -> dict[str, str]:
    """Return the names of all columns."""
    known = {kind: kind for kind in ("path", "label", *_OPTIONAL)}
    for kind, name in given.items():
        choice("columns", kind, known)
        if not isinstance(name, str) or not name:
            raise UserError(f"columns: {kind}: expected the name of a column, found {shown(name)}")
    return known | given
