"""What ImageNet and the test sets named after it have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from fl2ora.experiment.arguments import choice
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets._files import FilesDataset
from fl2ora.federated_data.datasets.base import SplitName
from fl2ora.federated_data.datasets.published._coop import GUIDE
from fl2ora.federated_data.files import FileList
from fl2ora.federated_data.layouts.imagenet import images_of_classes, read_class_names
from fl2ora.federated_data.layouts.roots import find_root, subfolders
from fl2ora.federated_data.store.stored import OnBadImage

_NAMES = "classnames.txt"


def listed_images(rows: list[tuple[Path, int]]) -> FileList:
    """Return rows of paths and labels as files of one domain."""
    labels = np.array([label for _, label in rows], dtype=np.int64)
    return FileList(tuple(path for path, _ in rows), labels, np.zeros_like(labels))


def class_names_near(base: Path) -> tuple[Path, dict[str, str]]:
    """Read the ``classnames.txt`` in a folder, or the one of ``imagenet/`` beside it."""
    beside = base.parent / "imagenet" / _NAMES
    path = base / _NAMES if (base / _NAMES).is_file() or not beside.is_file() else beside
    return path, read_class_names(path)


def classes_in(folder: Path, names: Mapping[str, str], source: Path) -> tuple[str, ...]:
    """Return the WordNet numbers that have a folder, in order.

    Raises:
        UserError: a folder is no class's, or there is none.
    """
    found = subfolders(folder)
    unknown = [name for name in found if name not in names]
    if unknown or not found:
        what = f"{unknown[0]!r}" if unknown else "none"
        raise UserError(
            f"{folder}: expected folders named by WordNet numbers of {source}, found {what}"
        )
    return tuple(found)


class ImageNetTestSet(FilesDataset):
    """Pictures of some of ImageNet's classes, to be tested on alone.

    A subclass names its folder. ``classnames.txt`` is looked for in it, then in ``imagenet/``
    beside it.

    Args:
        root: the folder with all data sets, or the data set's own; empty: ``$FL2ORA_DATA_DIR``.
        on_bad_image: what to do about an image that cannot be decoded: ``stop``, or ``skip``.

    Attributes:
        folder: name of the data set's folder.
        images: the folder in it with one folder for each class.

    Raises:
        UserError: a folder or ``classnames.txt`` is missing, or a folder is no class's.
    """

    folder: ClassVar[str]
    images: ClassVar[str]
    templates = ("a photo of a {}.",)

    def __init__(self, root: str = "", on_bad_image: OnBadImage = "stop") -> None:
        self.on_bad_image = on_bad_image
        base = find_root(root, self.folder, [f"{self.images}/"], GUIDE)
        source, names = class_names_near(base)
        self._images = base / self.images
        self._classes, self.class_names = self.classes(names, source)
        self.notes = (f"class names of {source}",)

    def classes(
        self, names: Mapping[str, str], source: Path
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the classes' folders and their names, by label."""
        found = classes_in(self._images, names, source)
        return found, tuple(names[wnid] for wnid in found)

    def files(self, name: SplitName) -> FileList:
        """List the test split, class by class.

        Raises:
            UserError: another split is asked for, or a class has no image.
        """
        if choice("split", name, ("train", "validation", "test")) != "test":
            raise UserError(
                f"{self._images}: expected to be tested on alone, there is no {name} split: train "
                "on another data set, such as imagenet"
            )
        return listed_images(images_of_classes(self._images, self._classes))
