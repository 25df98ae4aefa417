"""Where a published data set lies, and what is in a folder, or one clear line why not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import user_path

DATA_DIR = "FL2ORA_DATA_DIR"
"""Environment variable: the folder with all data sets, for every ``root`` that is not given."""

_SHOWN = 6  # names of a folder that an error quotes
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def find_root(root: str, folder: str, expected: Sequence[str], how: str) -> Path:
    """Return the folder of one data set.

    Args:
        root: the folder with all data sets, or the data set's own; empty: ``$FL2ORA_DATA_DIR``.
        folder: name of the data set's own folder.
        expected: files and folders (these end in ``/``) that must be in it; for a folder, case,
            spaces, hyphens and underscores make no difference.
        how: how to get the data set, for the error.

    Raises:
        UserError: no root is given, or neither folder has all that is expected; or the variable
            holds a relative path.
    """
    base = user_path(root) if root else _data_dir(folder, how)
    candidates = (base / folder, base)
    missing = [[name for name in expected if not _has(path, name)] for path in candidates]
    for path, lacking in zip(candidates, missing, strict=True):
        if not lacking:
            return path
    tried = candidates[0] if candidates[0].is_dir() else base
    lacking = missing[candidates.index(tried)]
    raise UserError(
        f"root: expected {folder}/ with {', '.join(expected)} in {base}, or {base} to be that "
        f"folder; {tried} lacks {', '.join(lacking)}, found there: {_contents(tried)}; {how}"
    )


def _data_dir(folder: str, how: str) -> Path:
    """Return the folder that the environment names."""
    given = os.environ.get(DATA_DIR, "")
    if not given:
        raise UserError(
            f"root: expected the folder that holds {folder}/, or ${DATA_DIR} to name it, found "
            f"neither; {how}"
        )
    path = user_path(given)
    if not path.is_absolute():  # processes of a run have directories of their own
        raise UserError(f"{DATA_DIR}: expected an absolute path, found {given!r}")
    return path


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, in order; hidden ones are passed over.

    Raises:
        UserError: the folder cannot be read.
    """
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir())


def image_names(folder: Path) -> list[str]:
    """Return the names of the images in a folder, in order; hidden ones are passed over.

    Raises:
        UserError: the folder cannot be read.
    """
    names = (entry.name for entry in _entries(folder) if not entry.is_dir())
    return sorted(name for name in names if name.lower().endswith(_IMAGES))


def require_files(named_in: Path, paths: Iterable[Path]) -> None:
    """Refuse a list that names files which do not exist.

    Each folder is read once; the files are not.

    Args:
        named_in: the list, for the error.
        paths: all files it names.

    Raises:
        UserError: with the first missing one and their number.
    """
    present: dict[Path, frozenset[str]] = {}
    missing = []
    for path in paths:
        if path.parent not in present:
            present[path.parent] = _names(path.parent)
        if path.name not in present[path.parent]:
            missing.append(path)
    if missing:
        raise UserError(
            f"{named_in}: expected the files it names, found {len(missing)} of them missing, "
            f"the first {missing[0]}"
        )


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text, without empty ones.

    Raises:
        UserError: the file cannot be read, is no UTF-8 or has no line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: expected a text file, found {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, found {error.reason}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path}: expected at least one line, found none")
    return lines


def inside(named_in: Path, folder: Path, name: str) -> Path:
    """Return the path of a file that a list names relative to a folder.

    Raises:
        UserError: the name leads out of the folder.
    """
    parts = name.split("/")
    if not name or name.startswith("/") or "\\" in name or ".." in parts or "\0" in name:
        raise UserError(f"{named_in}: expected paths inside {folder}, found {name!r}")
    return folder / name


def _has(folder: Path, name: str) -> bool:
    """Return whether a folder has an entry; what cannot be looked at is not there."""
    if not name.endswith("/"):
        return os.path.isfile(folder / name)
    wanted = plain_name(name.rstrip("/"))
    alike = [there for there in _listing(folder) if plain_name(there) == wanted]
    return any(os.path.isdir(folder / there) for there in (name, *alike))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: expected a readable folder, found {error.strerror}") from None


def plain_name(name: str) -> str:
    """Return a folder's name without what people spell differently.

    >>> plain_name("Real World") == plain_name("real_world")
    True
    """
    return "".join(sign for sign in name.casefold() if sign not in " _-")


def _listing(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise UserError(f"{folder}: expected a readable folder, found {error.strerror}") from None


def _contents(folder: Path) -> str:
    """Return some names in a folder."""
    names = _listing(folder)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"
