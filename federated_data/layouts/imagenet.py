"""ImageNet's class names, as CLIP and CoOp use them, and its folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fl2ora.experiment.errors import UserError, shown
from fl2ora.federated_data.layouts.roots import image_names, read_lines

# In CLIP's list two pairs of classes have one name; these are what WordNet calls the second ones.
_APART = {"n04008634": "projectile", "n04355933": "sunglass"}


def read_class_names(path: Path) -> dict[str, str]:
    """Read ``classnames.txt``: lines ``n01440764 tench``.

    Where two classes have one name, as ``missile`` and ``sunglasses`` in CLIP's list, the second
    is named as in WordNet: their prompts would be one.

    Returns:
        Names by WordNet number, in the order of the file.

    Raises:
        UserError: the file is missing or broken, or names a number twice.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        wnid, _, name = line.partition(" ")
        if not (wnid[:1] == "n" and wnid[1:].isdecimal()) or not name.strip() or wnid in names:
            raise UserError(
                f"{path}: line {number}: expected a WordNet number of its own and a name, such as "
                f"'n01440764 tench', found {shown(line)}"
            )
        names[wnid] = name.strip()
    taken = list(names.values())
    return {
        wnid: _APART[wnid] if wnid in _APART and taken.count(name) > 1 else name
        for wnid, name in names.items()
    }


def images_of_classes(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Return every image in ``folder/class/`` with its label, in order of names.

    Raises:
        UserError: a class has no folder or no image.
    """
    rows = []
    for label, name in enumerate(classes):
        images = image_names(folder / name)
        if not images:
            raise UserError(f"{folder / name}: expected images, found none")
        rows += [(folder / name / image, label) for image in images]
    return rows
