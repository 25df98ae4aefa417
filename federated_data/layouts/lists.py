"""Text files of images with labels, one a line, as of PACS, DomainNet and FGVC-Aircraft."""

from __future__ import annotations

from pathlib import Path

from fl2ora.experiment.errors import UserError, nearest, shown
from fl2ora.federated_data.layouts.roots import read_lines


def read_numbered(path: Path, first: int) -> list[tuple[str, int]]:
    """Read lines ``image label``, the label a number.

    Args:
        path: the list.
        first: the smallest label in it: 0, or 1.

    Returns:
        Paths as they stand, with labels from 0.

    Raises:
        UserError: the file is missing or broken, or a label is smaller.
    """
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal():
            raise UserError(f"{path}: line {number}: expected 'image label', found {shown(line)}")
        if int(label) < first:
            raise UserError(f"{path}: line {number}: expected labels from {first}, found {label}")
        rows.append((name.strip(), int(label) - first))
    return rows


def read_named(path: Path, class_names: tuple[str, ...]) -> list[tuple[str, int]]:
    """Read lines ``image class name``, the name one of a list.

    Raises:
        UserError: the file is missing or broken, or a class is not in the list.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        image, _, name = line.partition(" ")
        if name.strip() not in labels:
            raise UserError(
                f"{path}: line {number}: expected an image and one of {len(labels)} class names, "
                f"found {shown(line)}{nearest(name.strip(), labels)}"
            )
        rows.append((image, labels[name.strip()]))
    return rows


def check_folders(path: Path, rows: list[tuple[str, int]], class_names: tuple[str, ...]) -> None:
    """Refuse a list whose labels are not those of the folders its images are in.

    Args:
        path: the list.
        rows: paths ``.../class/file`` with labels.
        class_names: names of the classes' folders, by label.

    Raises:
        UserError: a label outside the list, or another class's folder.
    """
    for number, (name, label) in enumerate(rows, 1):
        if label >= len(class_names):
            raise UserError(
                f"{path}: image {number}: expected one of {len(class_names)} labels, "
                f"found the {label + 1}th for {name}"
            )
        if _folder(name) != class_names[label]:
            raise UserError(
                f"{path}: image {number}: expected {name} with the label of its folder, "
                f"found that of {class_names[label]!r}"
            )


def names_of_folders(paths: list[Path]) -> tuple[str, ...]:
    """Return class names by label: those of the folders that the images of all lists are in.

    Args:
        paths: lists of ``.../class/file label``, labels from 0.

    Raises:
        UserError: a label with two folders or a folder with two labels, or labels that are not
            0 to K - 1.
    """
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for path in paths:
        for name, label in read_numbered(path, first=0):
            folder = _folder(name)
            if names.setdefault(label, folder) != folder:
                raise UserError(
                    f"{path}: expected a label of its own for each class's folder, found "
                    f"{label} for {names[label]!r} and {folder!r}"
                )
            if labels.setdefault(folder, label) != label:
                raise UserError(
                    f"{path}: expected one label for each class's folder, found {labels[folder]} "
                    f"and {label} for {folder!r}"
                )
    if sorted(names) != list(range(len(names))):
        odd = next(label for place, label in enumerate(sorted(names)) if label != place)
        raise UserError(
            f"{paths[0].parent}: expected labels 0 to {len(names) - 1}, the lists there have "
            f"{len(names)} classes, found {odd}"
        )
    return tuple(names[label] for label in range(len(names)))


def _folder(name: str) -> str:
    return name.split("/")[-2] if "/" in name else ""
