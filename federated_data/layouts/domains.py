"""Data sets of several domains: which are wanted, and ``domain/class/image`` folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fl2ora.experiment.arguments import choice
from fl2ora.experiment.errors import UserError, nearest, shown
from fl2ora.federated_data.layouts.roots import image_names, plain_name, subfolders


def chosen_domains(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Return the domains that ``text`` names, in its order; all for an empty one.

    Raises:
        UserError: one is unknown or named twice.

    >>> chosen_domains("photo, sketch", ("cartoon", "photo", "sketch"))
    ('photo', 'sketch')
    """
    if not isinstance(text, str):
        raise UserError(f"domains: expected names separated by commas, found {shown(text)}")
    if not text.strip():
        return tuple(known)
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        choice("domains", name, known)
        if names.count(name) > 1:
            raise UserError(f"domains: expected each domain once, found {name!r} more than once")
    return names


def domain_folders(base: Path, called: Mapping[str, str]) -> dict[str, Path]:
    """Return the folder of each domain, which must be there (``find_root``).

    Args:
        base: the folder they are in.
        called: under each domain, the name of its folder, however spelt there.
    """
    there = {plain_name(name): name for name in subfolders(base)}
    return {domain: base / there[plain_name(name)] for domain, name in called.items()}


def class_folders(
    folders: Mapping[str, Path], class_names: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the names of the classes' folders.

    Args:
        folders: of each domain.
        class_names: what they must be, though a domain may lack some; None: whatever the first
            domain has, which all must have.

    Raises:
        UserError: domains that differ, a folder that is no class's, a domain without classes.
    """
    there = {domain: subfolders(path) for domain, path in folders.items()}
    first, *_ = there
    known = tuple(there[first] if class_names is None else class_names)
    for domain, names in there.items():
        for name in names:
            if name not in known:
                raise UserError(
                    f"{folders[domain]}: expected folders of {len(known)} classes, found {name!r}"
                    f"{nearest(name, known)}"
                )
        lacking = [name for name in known if name not in names]
        if not names or (lacking and class_names is None):
            raise UserError(
                f"{folders[domain]}: expected a folder of each class, found none of "
                f"{', '.join(map(repr, lacking[:3])) or 'any class'}"
            )
    return known


def images_of(
    folders: Mapping[str, Path], class_names: Sequence[str]
) -> list[tuple[Path, int, int]]:
    """Return every image with its label and the index of its domain, in order of names.

    Raises:
        UserError: a class without an image in any domain.
    """
    rows = [
        (path / name / image, label, domain)
        for domain, path in enumerate(folders.values())
        for label, name in enumerate(class_names)
        if (path / name).is_dir()
        for image in image_names(path / name)
    ]
    filled = {label for _, label, _ in rows}
    for label, name in enumerate(class_names):
        if label not in filled:
            places = ", ".join(str(path / name) for path in folders.values())
            raise UserError(f"{places}: expected images of {name!r}, found none")
    return rows
