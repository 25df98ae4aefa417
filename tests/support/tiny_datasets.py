"""Datasets and a partitioner outside the repository's folders, as a user would bring them."""

from __future__ import annotations

import numpy as np
import torch

from fl2ora.federated_data.datasets.base import Dataset, SplitName
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.partition.base import Indices, Partitioner


class NoTrainingImages(Dataset):
    """The embedded world's classes, and not one image to train on."""

    def __init__(self) -> None:
        self._world = Shapes(styles="held-back", train=16, validation=16, test=16)
        self.class_names = self._world.class_names
        self.templates = self._world.templates
        self.domains = self._world.domains

    def split(self, name: SplitName) -> LabelledImages:
        images = self._world.split(name)
        return images.select(torch.arange(0)) if name == "train" else images


class OtherTemplates(NoTrainingImages):
    """The same, with a template that says something else."""

    def __init__(self) -> None:
        super().__init__()
        self.templates = ("a blurred drawing of a {}.",)

    def split(self, name: SplitName) -> LabelledImages:
        return self._world.split(name)


class Flawed(Dataset):
    """Forty different images each to train and to test on, and one mistake.

    Args:
        attribute: one to replace, such as ``templates``; ``!`` deletes it.
        value: what to put there.
        label: of the fourth training image.
        domain: of the fourth test image.
        copies: test images that are training images.
    """

    def __init__(
        self,
        attribute: str = "",
        value: object = None,
        label: int = 0,
        domain: int = 0,
        copies: int = 0,
    ) -> None:
        world = Shapes(train=1, validation=1, test=1)
        self.class_names, self.templates = world.class_names, world.templates
        if attribute:
            setattr(self, attribute, value)
        self._label, self._domain, self._copies = label, domain, copies

    def split(self, name: SplitName) -> LabelledImages:
        numbers = torch.arange(40) + (40 - self._copies if name == "test" else 0)
        images = torch.full((40, 3, 32, 32), 200, dtype=torch.uint8)
        images[:, 1, 5, 6] = numbers.to(torch.uint8)  # one byte of each tells them apart
        labels, domains = numbers % 16, torch.zeros(40, dtype=torch.int64)
        if name == "train":
            labels[3] = self._label
        else:
            domains[3] = self._domain
        return LabelledImages(images, labels, domains)


class Twice(Flawed):
    """Every training image is there twice."""

    def __init__(self) -> None:
        super().__init__()

    def split(self, name: SplitName) -> LabelledImages:
        images = super().split(name)
        rows = torch.arange(40)
        return images.select(torch.cat([rows, rows])) if name == "train" else images


class Unfinished(Dataset):
    """Forgot its class names, and fails where it is asked for images."""

    templates = ("a {}",)

    def __init__(self, named: bool = False) -> None:
        if named:
            self.class_names = ("a", "b")

    def split(self, name: SplitName) -> LabelledImages:
        raise KeyError(name)


class Handmade(Partitioner):
    """Gives fixed shares, whatever the data."""

    def __init__(self, shares: object) -> None:
        self.shares = shares

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        if isinstance(self.shares, str):
            raise TypeError(self.shares)
        return self.shares  # type: ignore[return-value]


class Reordered(Dataset):
    """The embedded world with its classes in another order, or some of them alone.

    Args:
        seed: of the images.
        reverse: from the last class to the first.
        first: only so many classes of these.
        rename: put in place of the first name.
    """

    def __init__(
        self, seed: int = 0, reverse: bool = False, first: int = 16, rename: str = ""
    ) -> None:
        self._world = Shapes(styles="neon,chalk", train=64, validation=1, test=32, seed=seed)
        names = self._world.class_names
        order = list(reversed(range(16))) if reverse else list(range(16))
        self._places = torch.tensor([order.index(label) for label in range(16)])
        self._first = first
        self.class_names = tuple(names[label] for label in order[:first])
        if rename:
            self.class_names = (rename, *self.class_names[1:])
        self.templates, self.domains = self._world.templates, self._world.domains

    def split(self, name: SplitName) -> LabelledImages:
        images = self._world.split(name)
        labels = self._places[images.labels]
        moved = LabelledImages(images.images, labels, images.domains)
        return moved.select(torch.nonzero(labels < self._first)[:, 0])


class Numbered(Flawed):
    """Images that are equal where their numbers are, in whatever data set and split.

    Args:
        train: numbers of the training images, each from 0 to 255: first, and first not.
        test: of the test images, likewise.
        without: training images that are not there.
    """

    def __init__(
        self,
        train: tuple[int, int] = (0, 40),
        test: tuple[int, int] = (200, 208),
        without: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self._numbers = {
            "train": [number for number in range(*train) if number not in without],
            "test": list(range(*test)),
            "validation": [255],
        }

    def split(self, name: SplitName) -> LabelledImages:
        numbers = torch.tensor(self._numbers[name])
        images = torch.full((len(numbers), 3, 32, 32), 200, dtype=torch.uint8)
        images[:, 1, 5, 6] = numbers.to(torch.uint8)
        return LabelledImages(images, numbers % 16, torch.zeros_like(numbers))


class Renamed(NoTrainingImages):
    """The same classes backwards, spelled otherwise, and of each as many test images.

    Args:
        extra: a name that takes the place of the first class's; empty: none.
    """

    def __init__(self, extra: str = "") -> None:
        super().__init__()
        names = [name.upper().replace(" ", "_") for name in reversed(self.class_names)]
        self.class_names = (extra, *names[1:]) if extra else tuple(names)

    def split(self, name: SplitName) -> LabelledImages:
        images = self._world.split(name)
        labels = len(self.class_names) - 1 - images.labels
        return LabelledImages(images.images, labels, images.domains)
