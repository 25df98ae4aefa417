"""Tune on one dataset, test on others, each with its own classes and prompts.

Zhou, Yang, Loy & Liu 2022, arXiv 2203.05557, section 4.2.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from fl2ora.experiment.plugins import load
from fl2ora.experiment.spec import parse_spec, split_outside
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.protocols.base import Federation, HeldOutPart, PartMean, Protocol
from fl2ora.federated_data.protocols.in_distribution import InDistribution

SOURCE = "source"


class CrossDataset(Protocol):
    """Train on the run's dataset; hold out its test split and those of other datasets.

    Args:
        targets: specs of the other datasets with ``;`` between them, such as
            ``"fashion_mnist; shapes(styles='seen')"``. Each is a part named as in its spec, from
            the second on with a number where a name comes again.
    """

    new_classes = True

    def __init__(self, targets: str) -> None:
        specs = [parse_spec(text) for text in split_outside(targets, ";") if text.strip()]
        if not specs:
            raise ValueError(
                "targets: expected specs of datasets with ; between them, such as "
                f"'fashion_mnist; shapes(styles=\"seen\")', found {targets!r}"
            )
        self.others = tuple(load(spec, Dataset) for spec in specs)
        names: list[str] = []
        for spec in specs:
            before = sum(other.partition(" ")[0] == spec.name for other in names)
            names.append(f"{spec.name} {before + 1}" if before else spec.name)
        self._names = tuple(names)

    def arrange(self, dataset: Dataset) -> Federation:
        """Take the test split of each; see ``Protocol.arrange``."""
        whole = InDistribution().arrange(dataset)
        (test,) = whole.parts
        targets = tuple(
            _target(name, other) for name, other in zip(self._names, self.others, strict=True)
        )
        return replace(
            whole,
            parts=(replace(test, name=SOURCE), *targets),
            means=(PartMean("target-mean", self._names),),
        )

    def arrange_own(self, dataset: Dataset) -> Federation:
        """Take the test split of the node's own dataset alone."""
        whole = InDistribution().arrange(dataset)
        return replace(whole, parts=(replace(whole.parts[0], name=SOURCE),))


def _target(name: str, dataset: Dataset) -> HeldOutPart:
    images = dataset.split("test")
    # Its domains are none of the training images'.
    in_one = replace(images, domains=torch.zeros_like(images.domains))
    return HeldOutPart(name, in_one, tuple(dataset.class_names), tuple(dataset.templates))
