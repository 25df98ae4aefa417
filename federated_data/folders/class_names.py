"""Class names for prompts, from the names of folders or from a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fl2ora.experiment.errors import UserError, nearest, shown


def readable(name: str) -> str:
    """Return a folder's name as words.

    >>> readable("ankle_boot")
    'ankle boot'
    """
    return " ".join(name.replace("_", " ").split())


def named_classes(classes: Sequence[str], file: Path | None) -> dict[str, str]:
    """Return what each class is called in prompts, by its name in folders or table, in label order.

    Args:
        classes: their names in folders or table, sorted.
        file: with a line for each class, in label order: the name alone, or the name and what it is
            called in prompts behind a tab, a comma or a space, such as ``n01440764 tench``; None:
            names with spaces for underscores.

    Raises:
        UserError: the file cannot be read, lacks a class, or names one that there is not.
    """
    if file is None:
        return {name: readable(name) for name in classes}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: expected class names in UTF-8, found {error}") from None
    named: dict[str, str] = {}
    for line in filter(None, map(str.strip, lines)):
        name, called = _parsed(line, classes, file)
        if name in named:
            raise UserError(f"{file}: expected each class once, found {shown(name)} twice")
        named[name] = called
    lacking = [name for name in classes if name not in named]
    if lacking:
        raise UserError(
            f"{file}: expected a line for each of {len(classes)} classes, "
            f"found none for {shown(lacking[0])}{nearest(lacking[0], named.values())}"
        )
    return named


def _parsed(line: str, classes: Sequence[str], file: Path) -> tuple[str, str]:
    """Return a line's class and what it is called."""
    same = [name for name in classes if readable(name).casefold() == readable(line).casefold()]
    if line in classes or same:
        name = line if line in classes else same[0]
        return name, readable(line)
    name, *rest = (part.strip() for part in re.split(r"\t|,|\s", line, maxsplit=1))
    for separator in ("\t", ","):
        if separator in line:
            name, *rest = (part.strip() for part in line.split(separator, 1))
            break
    if name not in classes or not rest:
        raise UserError(
            f"{file}: {shown(name)} has no images: no folder or line of the table is of that class"
            f"{nearest(name, classes)}"
        )
    return name, rest[0]
