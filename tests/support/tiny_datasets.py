"""Datasets outside the repository's folders, as a user would bring them."""

from __future__ import annotations

import torch

from fl2ora.federated_data.datasets.base import Dataset, SplitName
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.federated_data.images import LabelledImages


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
