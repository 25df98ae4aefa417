"""A file of records of one size that only ever grows, and a lock for whoever lets it grow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.images import DIGEST, Digests
from fl2ora.federated_data.store.location import VARIABLE

_PATIENCE = 2.0  # seconds before a wait is told


class Records:
    """Records on disk; what a process that was stopped has left half-written is ignored.

    Args:
        path: of the file; it need not exist.
        kind: numpy's type of a record.
    """

    def __init__(self, path: Path, kind: np.dtype[Any]) -> None:
        self.path = path
        self._kind = kind

    def read(self) -> NDArray[Any]:
        """Return all whole records, mapped from the file."""
        count = file_size(self.path) // self._kind.itemsize
        if not count:
            return np.empty(0, self._kind)
        return np.memmap(self.path, self._kind, mode="r", shape=(count,))

    def append(self, records: NDArray[Any], after: int) -> None:
        """Write records behind the first ``after`` and forget what else was there."""
        self.path.touch()
        with self.path.open("r+b") as file:
            file.truncate(after * self._kind.itemsize)
            file.seek(0, os.SEEK_END)
            file.write(records.astype(self._kind).tobytes())
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def locked(folder: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold a folder's lock, which no other process of this machine holds at the same time.

    Args:
        folder: is created.
        waiting: called if it takes some time.

    Raises:
        UserError: the folder cannot be written to.
    """
    lock = FileLock(folder / ".lock")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            waiting()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell what the system refuses in one line.

    Raises:
        UserError: something could not be written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"the store of images in {folder} cannot be written to: {reason}; {VARIABLE} names "
            "another folder for it"
        ) from error


def file_size(path: Path) -> int:
    """Return a file's size in bytes; 0 if there is none."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def places_of(wanted: Digests, known: Digests) -> NDArray[np.int64]:
    """Return where each of ``wanted (N,)`` stands in ``known (M,)``; -1 where it does not.

    >>> places_of(np.array([b"b", b"x", b""], DIGEST), np.array([b"a", b"b"], DIGEST)).tolist()
    [1, -1, -1]
    """
    if not len(known):
        return np.full(len(wanted), -1, np.int64)
    known = np.array(known, dtype=DIGEST)
    order = np.argsort(known, kind="stable")
    found = np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)
    places = order[found]
    return np.where((known[places] == wanted) & (wanted != b""), places, -1)
