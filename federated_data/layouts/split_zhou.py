"""The split files of CoOp: ``split_zhou_<Dataset>.json``.

Zhou et al., "Learning to Prompt for Vision-Language Models", 2021, arXiv 2109.01134; the files are
linked from DATASETS.md of https://github.com/KaiyangZhou/CoOp.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl2ora.experiment.errors import UserError, shown

_PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class ZhouSplit:
    """What a split file says.

    Attributes:
        class_names: by label.
        parts: under ``train``, ``val`` and ``test``: paths relative to the images' folder, each
            with its label.
    """

    class_names: tuple[str, ...]
    parts: dict[str, list[tuple[str, int]]]


def read_split_zhou(path: Path) -> ZhouSplit:
    """Read a split file: an object of three lists of ``[path, label, class name]``.

    Raises:
        UserError: the file is missing or broken, two names for one label or one for two, labels
            that are not 0 to K - 1, or a class without a training image.
    """
    content = _read(path)
    names: dict[int, str] = {}
    parts: dict[str, list[tuple[str, int]]] = {}
    for part in _PARTS:
        rows = content.get(part)
        if not isinstance(rows, list) or not rows:
            raise UserError(f"{path}: expected a list with images under {part!r}, found {rows!r}")
        parts[part] = []
        for number, row in enumerate(rows):
            where = f"{path}: {part}[{number}]"
            file, label, name = _checked(where, row)
            if names.setdefault(label, name) != name:
                raise UserError(
                    f"{where}: expected one class name for label {label}, found {name!r} and "
                    f"{names[label]!r}"
                )
            parts[part].append((file, label))
    return ZhouSplit(_by_label(path, names, {label for _, label in parts["train"]}), parts)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: expected a split file, found {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a whole JSON file, found it damaged: {error}") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected an object with {', '.join(_PARTS)}, found {type(content).__name__}"
        )
    return content


def _checked(where: str, row: Any) -> tuple[str, int, str]:
    if (
        isinstance(row, list)
        and len(row) == 3
        and isinstance(row[0], str)
        and isinstance(row[1], int)
        and not isinstance(row[1], bool)
        and isinstance(row[2], str)
    ):
        return row[0], row[1], row[2]
    raise UserError(f"{where}: expected [path, label, class name], found {shown(row)}")


def _by_label(path: Path, names: dict[int, str], trained: set[int]) -> tuple[str, ...]:
    labels = sorted(names)
    if labels != list(range(len(labels))):
        odd = next(label for place, label in enumerate(labels) if label != place)
        raise UserError(
            f"{path}: expected labels 0 to {len(labels) - 1}, there are {len(labels)} classes, "
            f"found {odd}"
        )
    first: dict[str, int] = {}
    for label in labels:
        name = names[label]
        if name in first:
            raise UserError(
                f"{path}: expected a name of its own for each class, found {name!r} for labels "
                f"{first[name]} and {label}"
            )
        first[name] = label
        if label not in trained:
            raise UserError(
                f"{path}: expected a training image of each class, found none of {name!r}"
            )
    return tuple(names[label] for label in labels)
