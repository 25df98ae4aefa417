"""Digests of files' contents; a file that has not changed is read once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fl2ora.federated_data.images import DIGEST, Digests, digest_of
from fl2ora.federated_data.store.location import cache_folder
from fl2ora.federated_data.store.records import Records, locked, places_of
from fl2ora.federated_data.store.sources import FileSource, Source
from fl2ora.federated_data.store.threads import Watch, in_order

_KIND = np.dtype([("stamp", DIGEST), ("content", DIGEST)])


class KnownContents:
    """Digests of contents by the images' stamps, in a file.

    It holds digests alone: neither names nor contents can be read from it.

    Args:
        folder: holds the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records = Records(folder / "contents", _KIND)

    def of(self, stamps: Digests) -> Digests:
        """Return ``(N,)`` digests of contents; empty where one is not known."""
        records = self._records.read()
        places = places_of(stamps, records["stamp"])
        found = np.full(len(stamps), b"", dtype=DIGEST)
        found[places >= 0] = records["content"][places[places >= 0]]
        return found

    def remember(self, stamps: Digests, contents: Digests) -> None:
        """Keep what was found; images without a stamp or a content are left out.

        Raises:
            UserError: the folder cannot be written to.
        """
        told = (stamps != b"") & (contents != b"")
        if not told.any():
            return
        records = np.empty(int(told.sum()), _KIND)
        records["stamp"], records["content"] = stamps[told], contents[told]
        with locked(self._folder):
            self._records.append(records, after=len(self._records.read()))


def contents_of(source: Source) -> Digests:
    """Return ``(N,)`` digests of all contents; empty of what cannot be read.

    Raises:
        UserError: the folder of the store cannot be written to.
    """
    known, stamps = KnownContents(store_folder()), source.stamps()
    contents = known.of(stamps)
    missing = np.flatnonzero(contents == b"")
    fresh = contents[missing]
    with Watch("reading images", len(missing)) as watch:
        for place, digest in enumerate(in_order(lambda row: _digest(source, row), missing)):
            fresh[place] = digest
            watch.step()
    contents[missing] = fresh
    known.remember(stamps[missing], fresh)
    return contents


def file_digests(paths: Sequence[Path | str]) -> Digests:
    """Return ``(N,)`` digests of files' contents; see ``contents_of``."""
    return contents_of(FileSource(paths))


def store_folder() -> Path:
    """Return the folder of everything that is kept of images."""
    return cache_folder() / "images"


def _digest(source: Source, row: int) -> bytes:
    try:
        return digest_of(source.read(row))
    except OSError:
        return b""
