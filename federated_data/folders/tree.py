"""Listing a folder of images: what its sub-folders mean, and which files are images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from fl2ora.experiment.errors import UserError, shown
from fl2ora.federated_data.folders.listing import SPLITS, Listing, split_named

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LEVELS = ("split", "domain", "class", "client", "any")
_DEEPEST = 6
_IGNORED = ("thumbs.db", "desktop.ini", "__macosx")


def parse_layout(text: str) -> tuple[str, ...] | None:
    """Return what the folders of each level are, such as ``("domain", "class")``.

    Returns:
        None for ``auto``.

    Raises:
        UserError: an unknown level, none of classes, or one that stands twice.
    """
    if text == "auto":
        return None
    levels = tuple(part.strip() for part in text.split("/"))
    named = [level for level in levels if level != "any"]
    fine = set(levels) <= set(LEVELS) and "class" in levels and len(set(named)) == len(named)
    if not fine or len(levels) > _DEEPEST:
        raise UserError(
            f"layout: expected auto, or one of {', '.join(LEVELS)} for each level of folders with "
            f"class among them, such as domain/class, found {shown(text)}"
        )
    return levels


def list_tree(root: Path, levels: tuple[str, ...] | None) -> Listing:
    """Return the image files below a folder.

    Args:
        root: the folder.
        levels: what the folders of each level are; None: find out. Then ``train``, ``val`` and
            ``test`` are splits if there are no other folders, and what is below them, or else all,
            is ``class`` or ``domain/class`` by how deep the images lie.

    Raises:
        UserError: a folder cannot be read, images lie elsewhere than expected, or there are none.
    """
    files: list[tuple[tuple[str, ...], str]] = []
    folders: list[tuple[str, ...]] = []
    others: Counter[str] = Counter()
    for parts, name in _walk(root, ()):
        if not name:
            folders.append(parts)
        elif name.lower().endswith(ENDINGS):
            files.append((parts, name))
        elif not name.startswith(".") and name.lower() not in _IGNORED:
            others[Path(name).suffix.lower() or name] += 1
    if not files:
        raise UserError(
            f"{root}: expected images ({', '.join(ENDINGS)}) in folders of their classes, "
            f"found none"
        )
    levels = levels or _found_levels(root, files)
    for parts, name in files:
        if len(parts) != len(levels):
            raise UserError(
                f"{root}: expected all images in folders {'/'.join(levels)}, "
                f"found {'/'.join((*parts, name))}"
            )
    return _listing(root, levels, files, folders, _left_out(others))


def _listing(
    root: Path,
    levels: Sequence[str],
    files: Sequence[tuple[tuple[str, ...], str]],
    folders: Sequence[tuple[str, ...]],
    notes: tuple[str, ...],
) -> Listing:
    def words(level: str) -> list[str] | None:
        place = levels.index(level) if level in levels else None
        return None if place is None else [parts[place] for parts, _ in files]

    place = levels.index("class")
    classes = {parts[place] for parts in folders if len(parts) == place + 1}
    named = words("split")
    known = None if named is None else {word: split_named(word, str(root)) for word in set(named)}
    return Listing(
        paths=[os.path.join(root, *parts, name) for parts, name in files],
        labels=words("class") or [],
        domains=words("domain"),
        clients=words("client"),
        splits=None if named is None or known is None else [known[word] for word in named],
        classes=tuple(sorted(classes)),
        notes=notes,
    )


def _walk(folder: Path, parts: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield folders below ``folder`` as ``(parts, "")`` and files as ``(parts, name)``, sorted."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
            kinds = [entry.is_dir() for entry in entries]
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read: {error.strerror}") from None
    for entry, is_folder in zip(entries, kinds, strict=True):
        if not is_folder:
            yield parts, entry.name
        elif not entry.name.startswith(".") and entry.name.lower() not in _IGNORED:
            inside = (*parts, entry.name)
            yield inside, ""
            if len(inside) > _DEEPEST:
                raise UserError(f"{folder}: expected at most {_DEEPEST} levels of folders")
            yield from _walk(Path(entry.path), inside)


def _found_levels(root: Path, files: Sequence[tuple[tuple[str, ...], str]]) -> tuple[str, ...]:
    """Return what the folders seem to be."""
    top = {parts[0] for parts, _ in files if parts}
    splits = ("split",) if {word.casefold() for word in top} <= SPLITS.keys() and top else ()
    first: dict[int, str] = {}
    for parts, name in files:
        first.setdefault(len(parts) - len(splits), "/".join((*parts, name)))
    kinds = {1: ("class",), 2: ("domain", "class")}
    if len(first) == 1 and (depth := next(iter(first))) in kinds:
        return (*splits, *kinds[depth])
    raise UserError(
        f"{root}: expected all images in folders class/, domain/class/ or train|val|test/class/, "
        f"found {' and '.join(list(first.values())[:2])}; layout says what other folders are"
    )


def _left_out(others: Counter[str]) -> tuple[str, ...]:
    if not others:
        return ()
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(5))
    return (f"files left out, since their endings are no images': {kinds}",)
