"""MedMNIST v2: eleven sets of small medical images, from their ``.npz`` files.

Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
classification", 2023, arXiv 2110.14795 (https://medmnist.com, CC BY 4.0; DermaMNIST CC BY-NC 4.0).
"""

from __future__ import annotations

from typing import Literal

import torch

from fl2ora.experiment.arguments import choice
from fl2ora.federated_data.datasets.base import Dataset, SplitName
from fl2ora.federated_data.datasets.published._medmnist import SETS
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.layouts.medmnist import read_medmnist
from fl2ora.federated_data.layouts.roots import find_root

_PARTS = {"train": "train", "validation": "val", "test": "test"}


class MedMNIST(Dataset):
    """One of the sets with one label an image, in its official splits.

    ChestMNIST, which has several labels an image, and the sets of volumes are not offered.

    Args:
        name: of the set, such as ``pathmnist``.
        size: side of the images.
        root: the folder that holds ``medmnist/`` with the files, or that folder itself; empty:
            ``$FL2ORA_DATA_DIR``.

    Raises:
        UserError: an unknown set, or its file is missing; what is wrong with it is found by
            ``split``.
    """

    def __init__(
        self, name: str = "pathmnist", size: Literal[28, 64, 128, 224] = 28, root: str = ""
    ) -> None:
        template, self.class_names = SETS[choice("name", name, SETS)]
        self.templates = (template,)
        file = f"{name}.npz" if size == 28 else f"{name}_{size:.0f}.npz"
        how = "get it from https://zenodo.org/records/10519652, or by the package medmnist"
        self._path, self._size = find_root(root, "medmnist", [file], how) / file, int(size)
        self.notes = ("class names of MedMNIST in words of ours, template of ours",)

    def split(self, name: SplitName) -> LabelledImages:
        """Return one split, images ``(N, 1 or 3, size, size)`` uint8.

        Raises:
            UserError: there is no such split, or the file is damaged or another set's.
        """
        part = _PARTS[choice("split", name, _PARTS)]
        images, numbers = read_medmnist(self._path, part, self._size, len(self.class_names))
        labels = torch.from_numpy(numbers)
        return LabelledImages(torch.from_numpy(images), labels, torch.zeros_like(labels))
