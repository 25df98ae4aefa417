"""What the data sets with a split file of CoOp have in common."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fl2ora.experiment.arguments import choice
from fl2ora.federated_data.datasets._files import FilesDataset
from fl2ora.federated_data.datasets._templates import as_templates
from fl2ora.federated_data.datasets.base import SplitName
from fl2ora.federated_data.files import FileList
from fl2ora.federated_data.layouts.roots import find_root, inside, require_files
from fl2ora.federated_data.layouts.split_zhou import read_split_zhou
from fl2ora.federated_data.store.stored import OnBadImage

GUIDE = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md says how to get it"

_PARTS = {"train": "train", "validation": "val", "test": "test"}


class CoopDataset(FilesDataset):
    """Class names and the three splits of ``split_zhou_<Dataset>.json``.

    A subclass names its folder, its images and its split file.

    Args:
        root: the folder with all data sets, or the data set's own; empty: ``$FL2ORA_DATA_DIR``.
        templates: a prompt with ``{}`` for the class name, or a list of them; empty: the data
            set's own.
        on_bad_image: what to do about an image that cannot be decoded: ``stop``, or ``skip``.

    Attributes:
        folder: name of the data set's folder.
        images: the folder in it that the split file's paths start from; ``.``: itself.
        split_file: name of the split file.

    Raises:
        UserError: the folder lacks one of them, or the split file is broken; images it names and
            that do not exist are found by ``files``.
    """

    folder: ClassVar[str]
    images: ClassVar[str]
    split_file: ClassVar[str]
    templates: tuple[str, ...] = ("a photo of a {}.",)

    def __init__(
        self,
        root: str = "",
        templates: str | list[str] = "",
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        images = [] if self.images == "." else [f"{self.images}/"]
        self._base = find_root(root, self.folder, [self.split_file, *images], GUIDE)
        self._split = read_split_zhou(self._base / self.split_file)
        self.class_names = self._split.class_names
        if templates:
            self.templates = as_templates(templates)
        self.on_bad_image = on_bad_image
        self.notes = (f"splits of {self.split_file} (CoOp, arXiv 2109.01134)",)

    def files(self, name: SplitName) -> FileList:
        """List one split's images in the order of the split file.

        Raises:
            UserError: there is no such split, or an image does not exist.
        """
        rows = self._split.parts[_PARTS[choice("split", name, _PARTS)]]
        listed, folder = self._base / self.split_file, self._base / self.images
        paths = tuple(inside(listed, folder, path) for path, _ in rows)
        require_files(listed, paths)
        labels = np.array([label for _, label in rows], dtype=np.int64)
        return FileList(paths, labels, np.zeros_like(labels))
