"""Images of one list of classes as images of another that holds the same names, and maybe more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from fl2ora.experiment.errors import UserError, shown
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation


def relabelled(images: LabelledImages, own: Sequence[str], names: Sequence[str]) -> LabelledImages:
    """Return images whose labels count ``names`` in place of ``own``.

    Raises:
        UserError: a name of ``own`` is not among ``names``.
    """
    if tuple(own) == tuple(names):
        return images
    position = {name: index for index, name in enumerate(names)}
    missing = [name for name in own if name not in position]
    if missing:
        raise UserError(
            f"classes: expected them among the run's {len(names)}, found {shown(missing)}"
        )
    places = torch.tensor([position[name] for name in own], dtype=torch.int64)
    return replace(images, labels=places[images.labels])


def in_label_space(federation: Federation, names: Sequence[str]) -> Federation:
    """Return a federation whose training images, and parts of the same classes, count ``names``."""
    own, names = federation.class_names, tuple(names)
    if own == names:
        return federation
    parts = tuple(
        replace(part, images=relabelled(part.images, own, names), class_names=names)
        if part.class_names == own
        else part
        for part in federation.parts
    )
    train = relabelled(federation.train, own, names)
    return replace(federation, train=train, parts=parts, class_names=names)
