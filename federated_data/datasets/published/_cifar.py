"""What CIFAR-10 and CIFAR-100 have in common."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl2ora.experiment.arguments import choice, whole
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.base import Dataset, SplitName
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.layouts.cifar import Version, find_cifar, read_cifar

_HOW = "get it from https://www.cs.toronto.edu/~kriz/cifar.html"


class Cifar(Dataset):
    """32x32 photographs in the official training and test files.

    The last ``validation`` training images, which are in no order, are the validation split.

    Args:
        root: the folder that holds the ``.tar.gz`` of the python or binary version, or what it
            extracts to, or the latter itself; empty: ``$FL2ORA_DATA_DIR``.
        validation: images in the validation split.

    Attributes:
        versions: the published forms.

    Raises:
        UserError: no version is there, or ``validation`` is out of its range; what is wrong with
            the files is found by ``split``.
    """

    versions: ClassVar[Sequence[Version]]
    templates = ("a photo of a {}.",)

    def __init__(self, root: str = "", validation: int = 5000) -> None:
        self._validation = whole("validation", validation, at_least=0, at_most=49_999)
        self._found = find_cifar(root, self.versions, _HOW)
        if validation:
            self.notes = (
                f"the last {validation:,} training images are the validation split, which is "
                "neither trained nor tested on",
            )

    def split(self, name: SplitName) -> LabelledImages:
        """Return one split, images ``(N, 3, 32, 32)`` uint8.

        Raises:
            UserError: there is no such split, a file is missing or damaged, or there are not that
                many images.
        """
        if choice("split", name, ("train", "validation", "test")) == "test":
            return _in_one_domain(*self._read("test"))
        images, labels = self._training
        first = len(labels) - self._validation
        if first < 1:
            raise UserError(
                f"validation: expected less than the {len(labels)} training images, "
                f"found {self._validation}"
            )
        part = slice(first, None) if name == "validation" else slice(first)
        return _in_one_domain(images[part], labels[part])

    @cached_property
    def _training(self) -> tuple[Tensor, Tensor]:
        return self._read("train")

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        images, labels = read_cifar(self._found, part)
        for name, numbers in labels.items():
            self._check(part, name, numbers)
        own = labels[self._found.version.labels[-1]]
        self._check_coarse(part, labels)
        return torch.from_numpy(images), torch.from_numpy(own)

    def _check(self, part: str, name: str, numbers: NDArray[np.int64]) -> None:
        coarse = self.coarse_of is not None and name == "coarse_labels"
        most = max(self.coarse_of or (0,)) if coarse else len(self.class_names) - 1
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() <= most:
            odd = numbers[(numbers < 0) | (numbers > most)][0]
            raise UserError(
                f"{self._found.path}: {part}: expected {name} from 0 to {most}, found {odd}"
            )

    def _check_coarse(self, part: str, labels: dict[str, NDArray[np.int64]]) -> None:
        """Refuse superclasses that are not those of the classes."""
        if self.coarse_of is None:
            return
        expected = np.array(self.coarse_of)[labels["fine_labels"]]
        wrong = np.flatnonzero(expected != labels["coarse_labels"])
        if len(wrong):
            row = wrong[0]
            raise UserError(
                f"{self._found.path}: {part}: expected coarse label {expected[row]} for class "
                f"{self.class_names[labels['fine_labels'][row]]!r}, found "
                f"{labels['coarse_labels'][row]} at image {row}"
            )


def _in_one_domain(images: Tensor, labels: Tensor) -> LabelledImages:
    return LabelledImages(images, labels, torch.zeros_like(labels))
