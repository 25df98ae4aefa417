"""Held-out parts whose classes are those tuned on, under other spellings or in another order."""

from __future__ import annotations

from dataclasses import replace

import torch

from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import HeldOutPart


def as_tuned_on(part: HeldOutPart, class_names: tuple[str, ...]) -> HeldOutPart | None:
    """Return the part with labels that count the classes tuned on; None if it has other classes.

    Names are the same if they differ in nothing but case, spaces, hyphens and underscores.

    Args:
        part: held out.
        class_names: that were tuned on, in the order of the labels.
    """
    place = {plain_name(name): label for label, name in enumerate(class_names)}
    plain = [plain_name(name) for name in part.class_names]
    same_number = len(place) == len(class_names) == len(plain)
    if not same_number or set(plain) != place.keys():
        return None
    labels = torch.tensor([place[name] for name in plain])[part.images.labels]
    images = part.images
    mapped = LabelledImages(images.images, labels, images.domains, images.clients)
    return replace(part, images=mapped, class_names=class_names)


def plain_name(name: str) -> str:
    """Return a name as it is compared.

    >>> plain_name("Ice_Cream"), plain_name("ice-cream ")
    ('ice cream', 'ice cream')
    """
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
