"""Files and folders that are there in full or not at all, and readable as the user's umask says.

A process that is stopped and a disk that fills up leave what was there before. Libraries write
safetensors with mode 0600 whatever the umask; here they get the mode of any other file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it becomes ``path`` when all has gone well.

    Raises:
        OSError: the file cannot be written, whatever the library that writes it says.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        with naming(path):
            yield part
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path`` to fill; it replaces ``path`` when all has gone well.

    Raises:
        OSError: something cannot be written, whatever the library that writes it says.
    """
    part, old = (path.with_name(f".{path.name}.{end}") for end in ("part", "old"))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
        part.mkdir()
        with naming(path):
            yield part
        _give_usual_modes(part)
        if path.exists():
            path.rename(old)
        part.rename(path)
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def plain_file(path: Path) -> Path:
    """Return the path of a file to read, if it is a file: nobody may ever write to a pipe.

    Raises:
        OSError: it is a pipe, a device or a folder.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a file")
    return path


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file or folder, should the power fail next.

    Raises:
        OSError: it cannot.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8 by ``whole_file``."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _give_usual_modes(folder: Path) -> None:
    """Give every file in a folder the mode of one that is made without further ado."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for directory, _, files in os.walk(folder):
        for name in files:
            (Path(directory) / name).chmod(mode)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have every error of writing a file name it.

    Raises:
        OSError: the file cannot be written, whatever the library that writes it says.
    """
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    except OSError as error:  # of a full disk the system says no name
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
