"""What every dataset offers: class names, prompt templates, domains and three disjoint splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from fl2ora.experiment.image_fit import Fit
from fl2ora.federated_data.images import LabelledImages

SplitName = Literal["train", "validation", "test"]


class Dataset(ABC):
    """A family of labelled images.

    A dataset file defines one subclass; its constructor arguments are what a spec string such as
    ``shapes(styles='neon,chalk')`` may set. The constructor checks them and reads no images: it is
    called wherever a configuration is checked. Splits never share an image.

    Attributes:
        class_names: K names as they are put into a template, in label order.
        templates: prompt templates with one ``{}`` for the class name.
        domains: names of the domains that ``LabelledImages.domains`` counts.
        notes: sentences for the record of every run, such as which images are left out; read after
            the splits.
        fit: how the run's model wants images scaled and cut; set by ``prepare``.
    """

    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    domains: tuple[str, ...] = ("all",)
    notes: tuple[str, ...] = ()
    fit: Fit = Fit()

    def prepare(self, fit: Fit) -> None:
        """Learn how the run's model wants its images; called before ``split``.

        Only datasets whose files differ in size need to know: images of equal sizes are handed out
        as they are.
        """
        self.fit = fit

    @abstractmethod
    def split(self, name: SplitName) -> LabelledImages:
        """Return one split; equal arguments give bit-identical images."""
