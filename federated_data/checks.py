"""What is wrong with data somebody brought, said before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fl2ora.experiment.errors import UserError, shown
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.images import ImageRows, LabelledImages
from fl2ora.federated_data.protocols.base import Federation

_TOLERATED = 0.01  # share of the held-out images that may be training images, too


def check_names(described: Dataset | Federation) -> None:
    """Refuse class names, templates and domains that no prompt or table can be made of.

    Raises:
        UserError: which one it is, what was expected and what was found.
    """
    for attribute, example in (
        ("class_names", "('cat', 'dog')"),
        ("templates", "('a photo of a {}.',)"),
        ("domains", "('all',)"),
    ):
        found = getattr(described, attribute, None)
        texts = isinstance(found, Sequence) and all(isinstance(text, str) for text in found)
        if isinstance(found, str) or not texts or not found:
            raise UserError(
                f"{attribute}: expected at least one text in a tuple or list, such as {example}, "
                f"found {shown(found)}"
            )
    for template in described.templates:
        if template.count("{}") != 1:
            raise UserError(
                f"templates: expected exactly one {{}} for the class name in each, "
                f"found {shown(template)}"
            )
    for attribute in ("class_names", "domains"):
        _check_distinct(attribute, getattr(described, attribute))


def check_federation(federation: Federation) -> tuple[str, ...]:
    """Refuse data that cannot be trained or measured on, and say what is odd about the rest.

    Returns:
        Sentences for the run's record.

    Raises:
        UserError: names as in ``check_names``; labels or domains that are not in their lists; more
            than one held-out image in a hundred that is a training image, byte by byte.
    """
    check_names(federation)
    for part in ("train", "test"):
        data = getattr(federation, part)
        if not isinstance(data, LabelledImages):
            raise UserError(f"{part}: expected LabelledImages, found {type(data).__name__}")
        _check_range(f"{part}: labels", data.labels, "class names", len(federation.class_names))
        _check_range(f"{part}: domains", data.domains, "domains", len(federation.domains))
    count, copies = len(federation.test), _copies(federation.test.images, federation.train.images)
    if copies > _TOLERATED * count:
        raise UserError(
            f"test: {copies} of the {count} held-out images are training images, byte by byte: "
            "what is measured on them says nothing of new images"
        )
    return (f"{copies} of the {count} held-out images are training images, too",) if copies else ()


def _check_distinct(attribute: str, names: Sequence[str]) -> None:
    """Refuse empty names, and names that prompts cannot tell apart."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        read = " ".join(name.replace("_", " ").split()).casefold()
        if not read:
            raise UserError(f"{attribute}: expected names, found {name!r} at index {index}")
        if read in first:
            raise UserError(
                f"{attribute}: expected names that differ in more than case, spaces and "
                f"underscores, found {names[first[read]]!r} at index {first[read]} and {name!r} "
                f"at index {index}"
            )
        first[read] = index


def _check_range(what: str, numbers: Tensor, of: str, count: int) -> None:
    outside = ((numbers < 0) | (numbers >= count)).nonzero()[:, 0]
    if len(outside):
        raise UserError(
            f"{what}: expected 0 to {count - 1}, there are {count} {of}, "
            f"found {int(numbers[outside[0]])} at index {int(outside[0])}"
        )


def _copies(held_out: ImageRows, known: ImageRows) -> int:
    """Return how many of ``held_out`` are among ``known``."""
    if held_out.shape[1:] != known.shape[1:] or not len(held_out) or not len(known):
        return 0
    return int(np.isin(held_out.digests(), known.digests()).sum())
