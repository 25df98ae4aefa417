"""Encoded images, wherever they lie: what each is called, how to tell it again, its bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from fl2ora.federated_data.images import DIGEST, Digests, digest_of


class Source(Protocol):
    """N encoded images."""

    def __len__(self) -> int:
        """Return N."""

    def name(self, index: int) -> str:
        """Return what to call an image in a message."""

    def read(self, index: int) -> bytes:
        """Return its bytes; called by several threads.

        Raises:
            OSError: they cannot be read.
        """

    def stamps(self) -> Digests:
        """Return ``(N,)`` marks that change when an image does, read without its bytes.

        Empty where there is none: such an image is read to see what it is.
        """


class FileSource:
    """Images in files of their own, told by path, size and time of the last change.

    Args:
        paths: of the files.
    """

    def __init__(self, paths: Sequence[Path | str]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        """See ``Source``."""
        return len(self._paths)

    def name(self, index: int) -> str:
        """See ``Source``."""
        return str(self._paths[index])

    def read(self, index: int) -> bytes:
        """See ``Source``; nobody may ever write to a pipe."""
        if not stat.S_ISREG(os.stat(self._paths[index]).st_mode):
            raise OSError("not a file")
        with open(self._paths[index], "rb") as file:
            return file.read()

    def stamps(self) -> Digests:
        """See ``Source``."""
        stamps = np.empty(len(self), dtype=DIGEST)
        for index, path in enumerate(self._paths):
            try:
                found = os.stat(path)
            except OSError:  # reading it will tell
                stamps[index] = b""
                continue
            said = f"{os.path.abspath(path)}\0{found.st_size}\0{found.st_mtime_ns}"
            stamps[index] = digest_of(os.fsencode(said))
        return stamps
