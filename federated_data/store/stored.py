"""Image files as labelled images of one size, decoded once on a machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.image_fit import Fit
from fl2ora.federated_data.images import Digests, ImageRows, digest_of
from fl2ora.federated_data.store.contents import KnownContents, store_folder
from fl2ora.federated_data.store.decode import (
    SIXTEEN_BITS,
    TRANSPARENT,
    TURNED,
    BadImageError,
    Decoded,
    decode,
    decoding,
)
from fl2ora.federated_data.store.image_store import Entry, ImageStore
from fl2ora.federated_data.store.records import locked, places_of
from fl2ora.federated_data.store.sources import Source
from fl2ora.federated_data.store.threads import Watch, in_order

OnBadImage = Literal["stop", "skip"]

_SAID = {
    TURNED: "turned as their EXIF orientation says",
    TRANSPARENT: "transparent in parts, whose hidden colours are seen",
    SIXTEEN_BITS: "of 16 bits, scaled to 8",
}


@dataclass(frozen=True)
class Stored:
    """What became of a source's images.

    Attributes:
        images: those that could be decoded, in order.
        kept: ``(n,)`` which of the source's they are.
        remarks: sentences for the run's record.
    """

    images: ImageRows
    kept: NDArray[np.int64]
    remarks: tuple[str, ...]


def stored_images(source: Source, fit: Fit, on_bad_image: OnBadImage, title: str) -> Stored:
    """Return the images of a source, decoding those that this machine has not yet.

    Args:
        source: of encoded images.
        fit: to which size.
        on_bad_image: what to do about an image that cannot be decoded.
        title: of these images in remarks, such as ``train``.

    Raises:
        UserError: an image cannot be decoded and ``on_bad_image`` is ``stop``, or none can be; or
            the store cannot be written to.
    """
    root = store_folder()
    store, known = ImageStore(root, fit), KnownContents(root)
    stamps = source.stamps()
    contents = known.of(stamps)
    rows = places_of(contents, store.records()["content"])
    bad: dict[int, str] = {}
    if (rows < 0).any():
        build = _Build(source, store, contents, on_bad_image, title)
        try:
            bad = build.run()
        finally:
            known.remember(stamps[build.read], contents[build.read])
        rows = places_of(contents, store.records()["content"])
    kept = np.flatnonzero(rows >= 0)
    if len(source) and not len(kept):
        raise UserError(f"{title}: none of {len(source):,} images can be decoded: {_first(bad)}")
    images = ImageRows(store.pool(), torch.from_numpy(rows[kept]))
    marks = store.records()["marks"][rows[kept]]
    return Stored(images, kept, tuple(_remarks(title, len(source), bad, marks)))


def _remarks(
    title: str, count: int, bad: Mapping[int, str], marks: NDArray[np.int32]
) -> Iterator[str]:
    """Yield what is worth saying of a source's images."""
    if bad:
        yield (
            f"{title}: {len(bad):,} of {count:,} images cannot be decoded and are left out, "
            f"the first: {_first(bad)}"
        )
    for mark, words in _SAID.items():
        if found := int(((marks & mark) > 0).sum()):
            yield f"{title}: {found:,} of {len(marks):,} images are {words}"


class _Build:
    """Decodes what a store lacks of a source.

    Attributes:
        read: rows whose content was read, ``contents`` holding its digest.
    """

    def __init__(
        self,
        source: Source,
        store: ImageStore,
        contents: Digests,
        on_bad_image: OnBadImage,
        title: str,
    ) -> None:
        self._source, self._store, self._contents = source, store, contents
        self._stop, self._title = on_bad_image == "stop", title
        self._bad: dict[int, str] = {}
        self.read: list[int] = []

    def run(self) -> dict[int, str]:
        """Add what lacks; return why each bad image is one.

        Raises:
            UserError: see ``stored_images``.
        """
        watch = Watch(f"decoding images ({self._title})", 0)
        waiting = f"Data: another process decodes images into {self._store.folder}; waiting for it"
        with locked(self._store.folder, lambda: watch.say(waiting)), watch, decoding():
            self._there = set(self._store.records()["content"].tolist())
            missing = [
                row for row, digest in enumerate(self._contents.tolist())
                if digest not in self._there
            ]  # fmt: skip
            watch.expect(len(missing))
            self._store.require_space(len(missing))
            self._store.add(self._entries(missing, watch))
        return self._bad

    def _entries(self, missing: list[int], watch: Watch) -> Iterator[Entry]:
        for row, (digest, image) in zip(missing, in_order(self._decoded, missing), strict=True):
            watch.step()
            if digest:
                self._contents[row] = digest
                self.read.append(row)
            if isinstance(image, str):
                if self._stop:
                    raise UserError(f"{self._source.name(row)}: {image}")
                self._bad[row] = f"{self._source.name(row)}: {image}"
            elif image is not None and digest not in self._there:
                yield Entry(digest, image)
                self._there.add(digest)

    def _decoded(self, row: int) -> tuple[bytes, Decoded | str | None]:
        """Return the digest of an image's bytes, and the image; or why not, or None if known."""
        try:
            content = self._source.read(row)
        except OSError as error:
            return b"", f"cannot be read: {error.strerror or error}"
        digest = digest_of(content)
        if digest in self._there:
            return digest, None
        try:
            return digest, decode(content, self._store.fit)
        except BadImageError as error:
            return digest, str(error)


def _first(bad: Mapping[int, str]) -> str:
    return next(iter(bad.values()), "")
