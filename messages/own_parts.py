"""What a node with data of its own holds out by the run's protocol, as it says it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fl2ora.experiment.errors import shown
from fl2ora.messages.records import UnusableMessageError, one_line

_MOST = 100  # parts of one node
_LONGEST = 100  # signs of a part's name
_ENDINGS = ("-mean", "-sd", "-worst", "-calibrated")  # of rows beside a part's own
_OWN = "own/"


@dataclass(frozen=True)
class PartInfo:
    """One part of a node's own held-out images.

    Attributes:
        name: of the part, as the protocol calls it; may be empty.
        images: how many.
        class_names: of other classes than the node's training images have, in label order; empty:
            of those.
        templates: of their prompts, likewise.
        lacking: why the node's data can have no image of it, or empty.
    """

    name: str
    images: int
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    lacking: str = ""


def own_key(part: str) -> str:
    """Return what the sums of a part are called in a reply.

    >>> own_key("new")
    'own/new'
    """
    return f"{_OWN}{part}"


def parts_text(parts: Sequence[PartInfo]) -> str:
    """Return parts as the text that travels."""
    return json.dumps([asdict(part) for part in parts])


def read_parts(items: Sequence[object]) -> tuple[PartInfo, ...]:
    """Return the parts a node names, checked.

    Raises:
        UnusableMessageError: they are none, or no table could tell them apart.
    """
    if len(items) > _MOST:
        raise UnusableMessageError(f"parts: expected at most {_MOST}, found {len(items)}")
    parts = tuple(map(_part, items))
    if len({part.name for part in parts}) < len(parts):
        raise UnusableMessageError("parts: expected names that differ, found one twice")
    return parts


def _part(item: object) -> PartInfo:
    try:
        part = PartInfo(**item)  # type: ignore[arg-type]
    except TypeError:
        raise UnusableMessageError(f"parts: expected PartInfo, found {shown(item)}") from None
    name, images = part.name, part.images
    printable = isinstance(name, str) and name.isprintable() and name == name.strip()
    if not printable or len(name) > _LONGEST or "/" in name or name.endswith(_ENDINGS):
        raise UnusableMessageError(
            f"parts: expected printable names of at most {_LONGEST} signs, without / and not "
            f"ending in {', '.join(_ENDINGS)}, found {shown(name)}"
        )
    if type(images) is not int or not 0 <= images < 2**53:
        raise UnusableMessageError(f"parts: images: expected a count, found {shown(images)}")
    texts = [part.class_names, part.templates]
    if not all(isinstance(t, list) and all(isinstance(x, str) for x in t) for t in texts):
        raise UnusableMessageError("parts: expected class names and templates as lists of texts")
    return PartInfo(
        name, images, tuple(part.class_names), tuple(part.templates), one_line(part.lacking)
    )


def classes_text(classes: dict[str, tuple[str, ...]]) -> str:
    """Return the class names of parts as the text that travels."""
    return json.dumps(classes)


def read_classes(text: object) -> dict[str, tuple[str, ...]]:
    """Return the class names that parts are asked for in; see ``EvaluateTask``.

    Raises:
        UnusableMessageError: they are no lists of names.
    """
    try:
        found = json.loads(str(text))
        return {str(name): tuple(map(str, names)) for name, names in found.items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise UnusableMessageError("own: expected lists of class names by part") from None
