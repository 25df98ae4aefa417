"""Tune on half of the classes, test on both halves, each among its own classes.

Zhou, Yang, Loy & Liu 2022, "Conditional prompt learning for vision-language models", arXiv
2203.05557, with its harmonic mean (Xian et al. 2017, arXiv 1707.00600).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation, HeldOutPart, PartMean, Protocol
from fl2ora.federated_data.protocols.in_distribution import InDistribution

BASE, NEW = "base", "new"
_FEWEST = 4  # classes, two in each half


class BaseToNew(Protocol):
    """Train on the first half of the classes, the larger one where their number is odd.

    Held out are the test images of both halves. Those of a half are classified among its classes
    alone, by their own prompts.
    """

    new_classes = True

    def arrange(self, dataset: Dataset) -> Federation:
        """Filter both splits by class; see ``Protocol.arrange``."""
        count = len(dataset.class_names)
        if count < _FEWEST:
            raise ValueError(
                f"base_to_new: expected a dataset of at least {_FEWEST} classes, found {count}"
            )
        whole = InDistribution().arrange(dataset)
        (test,) = whole.parts
        half = (count + 1) // 2
        names, templates, coarse = whole.class_names, whole.templates, whole.coarse_of
        return replace(
            whole,
            train=_of_classes(whole.train, 0, half),
            parts=(
                HeldOutPart(BASE, _of_classes(test.images, 0, half), names[:half], templates),
                HeldOutPart(NEW, _of_classes(test.images, half, count), names[half:], templates),
            ),
            class_names=names[:half],
            coarse_of=None if coarse is None else tuple(coarse[:half]),
            means=self.own_means((BASE, NEW)),
        )

    def own_means(self, parts: tuple[str, ...]) -> tuple[PartMean, ...]:
        """Return the harmonic mean of both halves."""
        return (PartMean("harmonic-mean", (BASE, NEW), harmonic=True),)


def _of_classes(images: LabelledImages, first: int, end: int) -> LabelledImages:
    """Return the images of classes ``first`` to ``end - 1``, labelled from 0."""
    inside = (images.labels >= first) & (images.labels < end)
    chosen = images.select(torch.nonzero(inside)[:, 0])
    return replace(chosen, labels=chosen.labels - first)
