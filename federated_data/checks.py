"""What is wrong with data somebody brought, said before anything is trained on it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from torch import Tensor

from fl2ora.experiment.errors import UserError, listed, shown
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation, HeldOutPart

_EXAMPLES = {
    "class_names": "('cat', 'dog')",
    "templates": "('a photo of a {}.',)",
    "domains": "('all',)",
}


def check_names(described: Dataset | Federation | HeldOutPart) -> None:
    """Refuse class names, templates and domains that no prompt or table can be made of.

    Raises:
        UserError: which one it is, what was expected and what was found.
    """
    examples = dict(_EXAMPLES)
    if isinstance(described, HeldOutPart):  # its domains are those of the training images
        del examples["domains"]
    for attribute, example in examples.items():
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
    for attribute in sorted(examples.keys() - {"templates"}):
        _check_distinct(attribute, getattr(described, attribute))


def check_arrangement(federation: object) -> None:
    """Refuse what a protocol of somebody's own returned if it is no federation.

    Raises:
        UserError: what was expected and what was found.
    """
    if not isinstance(federation, Federation):
        raise UserError(f"expected a Federation, found {type(federation).__name__}")
    names = {part.name for part in federation.parts}
    for mean in federation.means:
        if not mean.parts or (unknown := sorted(set(mean.parts) - names)):
            raise UserError(
                f"means: {mean.name!r}: expected names of parts ({listed(names)}), found "
                f"{listed(unknown) if mean.parts else 'none'}"
            )


def check_federation(federation: Federation, *, own: bool = False) -> None:
    """Refuse data that cannot be trained or measured on.

    Args:
        federation: what a protocol made of a dataset.
        own: the dataset is a node's own, whose parts may have no images.

    Raises:
        UserError: names as in ``check_names``; labels or domains that are not in their lists; parts
            that are empty or have no name of their own.
    """
    check_names(federation)
    if not isinstance(federation.train, LabelledImages):
        raise UserError(f"train: expected LabelledImages, found {type(federation.train).__name__}")
    _check_labels("train", federation.train, federation.class_names, federation.domains)
    coarse, count = federation.coarse_of, len(federation.class_names)
    if coarse is not None and len(coarse) != count:
        raise UserError(
            f"coarse_of: expected the superclass of {count} classes, found {len(coarse)}"
        )
    seen = {mean.name for mean in federation.means}
    for part in federation.parts:
        where = f"test {part.name}".strip()
        if not isinstance(part.images, LabelledImages):
            raise UserError(f"{where}: expected LabelledImages, found {type(part.images).__name__}")
        _check_part_name(part.name, len(federation.parts), seen)
        check_names(part)
        _check_labels(where, part.images, part.class_names, federation.domains)
        if not own and not len(part.images):
            raise UserError(f"{where}: expected at least one image to measure on, found none")


def _check_part_name(name: str, parts: int, seen: set[str]) -> None:
    """Refuse names of held-out parts that no table could hold apart."""
    fits = name.isprintable() and name == name.strip() and "/" not in name
    if not fits or name.endswith("-calibrated") or (not name and parts > 1) or name in seen:
        raise UserError(
            "held-out parts: expected names that differ, without / and not ending in -calibrated, "
            f"found {shown(name)} among {parts}"
        )
    seen.add(name)


def _check_labels(
    what: str, images: LabelledImages, class_names: Sequence[str], domains: Sequence[str]
) -> None:
    _check_range(f"{what}: labels", images.labels, "class names", len(class_names))
    _check_range(f"{what}: domains", images.domains, "domains", len(domains))


def _check_distinct(attribute: str, names: Sequence[str]) -> None:
    """Refuse empty names, and names that prompts cannot tell apart."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        read = " ".join(name.replace("_", " ").split()).casefold()
        if any(unicodedata.category(sign) == "Cc" for sign in name):
            raise UserError(
                f"{attribute}: expected names without control characters, found {shown(name)} at "
                f"index {index}"
            )
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
