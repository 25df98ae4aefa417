"""Fashion-MNIST from its four IDX files.

Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", 2017, https://arxiv.org/abs/1708.07747 (MIT licence).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fl2ora.experiment.arguments import LARGEST, choice, whole
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.base import Dataset, SplitName
from fl2ora.federated_data.datasets.idx import read_idx
from fl2ora.federated_data.datasets.pretraining_split import FASHION_MNIST_PRETRAINING
from fl2ora.federated_data.images import LabelledImages

_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")


class FashionMNIST(Dataset):
    """28x28 grey pictures of ten kinds of clothing.

    The first 2,000 training images taught the embedded CLIP and belong to no split. The last
    ``validation`` training images are the validation split, the ones between are for training, and
    the t10k file is the test split.

    Args:
        folder: holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same two for
            ``t10k``, each plain or with ``.gz``.
        train: images in the training split, drawn at random; None: all there are.
        validation: images in the validation split.
        seed: decides which images are drawn when ``train`` is set.

    Raises:
        UserError: if a file is missing (the message says how to get it), or for an argument out of
            its range; files that do not fit together are found by ``split``.
    """

    class_names = (
        "t-shirt",
        "trousers",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    templates = ("a photo of a {}.",)

    def __init__(
        self,
        folder: str = "/usr/share/datasets/fashion-mnist",
        train: int | None = None,
        validation: int = 5000,
        seed: int = 0,
    ) -> None:
        whole("validation", validation, at_least=1, at_most=60_000)
        whole("seed", seed, at_least=0, at_most=LARGEST)
        if train is not None:
            whole("train", train, at_least=1, at_most=60_000)
        for part in ("train", "t10k"):
            for kind in _KINDS:
                _find(Path(folder), f"{part}-{kind}")
        self._folder, self._train, self._validation, self._seed = folder, train, validation, seed
        self.notes = (
            f"the first {FASHION_MNIST_PRETRAINING.stop:,} training images of Fashion-MNIST taught "
            "the embedded CLIP and are left out",
            f"its last {validation:,} training images are the validation split, which is neither "
            "trained nor tested on",
        )

    def split(self, name: SplitName) -> LabelledImages:
        """Return one split, images ``(N, 1, 28, 28)`` uint8.

        Raises:
            UserError: if there is no such split, or not that many images.
        """
        if choice("split", name, ("train", "validation", "test")) == "test":
            return _in_one_domain(*read_pair(self._folder, "t10k"))
        images, labels = self._training_file
        first, last = FASHION_MNIST_PRETRAINING.stop, len(labels) - self._validation
        if last <= first:
            raise UserError(
                f"validation: expected less than {len(labels) - first} ({len(labels)} training "
                f"images without the first {first}), found {self._validation}"
            )
        rows = torch.arange(last, len(labels)) if name == "validation" else self._drawn(first, last)
        return _in_one_domain(images[rows], labels[rows])

    @cached_property
    def _training_file(self) -> tuple[Tensor, Tensor]:
        return read_pair(self._folder, "train")

    def _drawn(self, first: int, last: int) -> Tensor:
        """Return the rows of the training split, in order."""
        rows = torch.arange(first, last)
        if self._train is None:
            return rows
        if self._train > len(rows):
            raise UserError(f"train: expected at most {len(rows)} images, found {self._train}")
        generator = torch.Generator().manual_seed(self._seed)
        return rows[torch.randperm(len(rows), generator=generator)[: self._train].sort().values]


def read_pair(folder: str | Path, part: str) -> tuple[Tensor, Tensor]:
    """Read the images and labels of ``train`` or ``t10k``.

    Args:
        folder: where the IDX files lie.
        part: how their names begin.

    Returns:
        Images ``(N, 1, 28, 28)`` uint8 and labels ``(N,)`` int64 from 0 to 9.

    Raises:
        UserError: if a file is missing (the message says how to get it), or if the two files are
            not what Fashion-MNIST's are.
    """
    images = read_idx(_find(Path(folder), f"{part}-images-idx3-ubyte"))
    labels = read_idx(_find(Path(folder), f"{part}-labels-idx1-ubyte"))
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
        raise UserError(
            f"{folder}/{part}-images-idx3-ubyte: expected uint8 of shape (N, 28, 28), "
            f"found {images.dtype} of shape {images.shape}"
        )
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise UserError(
            f"{folder}/{part}-labels-idx1-ubyte: expected uint8 of shape {images.shape[:1]}, "
            f"found {labels.dtype} of shape {labels.shape}"
        )
    if labels.size and labels.max() > 9:
        raise UserError(
            f"{folder}/{part}-labels-idx1-ubyte: expected labels from 0 to 9, found {labels.max()}"
        )
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()


def _find(folder: Path, name: str) -> Path:
    """Return the plain file or the gzipped one."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    found = "no such folder" if not folder.is_dir() else "neither"
    raise UserError(
        f"{folder}: expected a folder with {name} or {name}.gz, found {found}; "
        "get the files with `apt-get install dataset-fashion-mnist` (Debian, into "
        "/usr/share/datasets/fashion-mnist), or name any folder with the four IDX files"
    )


def _in_one_domain(images: Tensor, labels: Tensor) -> LabelledImages:
    """Return images of the domain ``all``."""
    return LabelledImages(images, labels, torch.zeros_like(labels))
