"""Decoded images in one growing file, which all processes of a machine map into memory.

A store is a folder for one ``Fit``: ``pixels`` (and ``larger``) hold one image after the other,
``index`` one record for each. An image is there when its record is: pixels are on disk before it,
and whatever lies behind the last record is overwritten by the next build. So a build may be
interrupted at any time, and the next one goes on where it ended.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.image_fit import Fit
from fl2ora.federated_data.images import DIGEST, Digests, Pool, pixels_digest
from fl2ora.federated_data.store.decode import Decoded
from fl2ora.federated_data.store.location import VARIABLE
from fl2ora.federated_data.store.records import Records, file_size, writing

_FORMAT = 1  # goes up when the same file comes to be stored otherwise
_KIND = np.dtype([("content", DIGEST), ("pixels", DIGEST), ("shape", "<i4", 2), ("marks", "<i4")])
_AT_ONCE = 256  # images written before their records are


@dataclass(frozen=True)
class Entry:
    """An image to be added.

    Attributes:
        content: digest of the encoded image.
        image: decoded.
    """

    content: bytes
    image: Decoded


class ImageStore:
    """The decoded images of one ``Fit``.

    Args:
        root: folder of all stores.
        fit: how images are scaled.
    """

    def __init__(self, root: Path, fit: Fit) -> None:
        name = (
            f"v{_FORMAT}-pillow{PIL.__version__}-{'squash' if fit.squash else 'resize'}{fit.resize}"
            f"-crop{fit.size}-filter{fit.resample}" + (f"-larger{fit.larger}" * bool(fit.larger))
        )
        if fit.scaling:
            name += f"-{fit.scaling}{fit.bounds[0]}x{fit.bounds[1]}"
        self.folder = root / name
        self.fit = fit
        self._sides = {"pixels": fit.resize} | ({"larger": fit.larger} if fit.larger else {})
        self._index = Records(self.folder / "index", _KIND)

    @property
    def bytes_per_image(self) -> int:
        """Space one more image takes."""
        return sum(3 * side * side for side in self._sides.values()) + _KIND.itemsize

    def records(self) -> NDArray[Any]:
        """Return the records of all images that are there in full."""
        sizes = [file_size(self.folder / n) // (3 * s * s) for n, s in self._sides.items()]
        return self._index.read()[: min(sizes)]

    def pool(self) -> Pool:
        """Return all images that are there, mapped: pages are read when they are used."""
        records = self.records()
        larger = self._mapped("larger", len(records)) if "larger" in self._sides else None
        shapes = torch.from_numpy(records["shape"].astype(np.int64)) if larger is not None else None
        contents: Digests | None = records["content"] if larger is not None else None
        return Pool(
            self._mapped("pixels", len(records)), larger, shapes, records["pixels"], contents
        )

    def require_space(self, images: int) -> None:
        """Refuse to begin what cannot be ended.

        Raises:
            UserError: how much is needed, and how much there is.
        """
        with writing(self.folder):
            free = shutil.disk_usage(self.folder).free
        needed = images * self.bytes_per_image
        if needed > free:
            raise UserError(
                f"the store of images in {self.folder} needs {needed / 1e9:.3g} GB for {images:,} "
                f"more images, found {free / 1e9:.3g} GB; {VARIABLE} names another folder for it"
            )

    def add(self, entries: Iterator[Entry]) -> None:
        """Write images as they come; call it while holding the lock of ``folder``.

        Whatever ends it, all images that came before stay.

        Raises:
            UserError: something could not be written; the store is as it was some images before.
        """
        pending: list[tuple[object, ...]] = []
        with writing(self.folder), ExitStack() as stack:
            files = self._opened(stack)
            try:
                for entry in entries:
                    pending.append(_written(files, entry))
                    if len(pending) >= _AT_ONCE:
                        self._commit(files, pending)
            finally:
                self._commit(files, pending)

    def _opened(self, stack: ExitStack) -> dict[str, IO[bytes]]:
        """Open the files of pixels behind the last image that is there in full; forget the rest."""
        count = len(self.records())
        self._index.append(np.empty(0, _KIND), after=count)
        files: dict[str, IO[bytes]] = {}
        for name, side in self._sides.items():
            path = self.folder / name
            path.touch()
            files[name] = stack.enter_context(path.open("r+b"))
            files[name].truncate(count * 3 * side * side)
            files[name].seek(0, os.SEEK_END)
        return files

    def _commit(self, files: dict[str, IO[bytes]], pending: list[tuple[object, ...]]) -> None:
        """Make sure that the pixels are on disk, then write their records."""
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
        self._index.append(np.array(pending, dtype=_KIND), after=len(self._index.read()))
        pending.clear()

    def _mapped(self, name: str, count: int) -> Tensor:
        side = self._sides[name]
        if not count:
            return torch.empty((0, 3, side, side), dtype=torch.uint8)
        # Read-only, so that it may be larger than memory, and is one copy for all processes.
        mapped = np.memmap(self.folder / name, np.uint8, mode="r", shape=(count, 3, side, side))
        with warnings.catch_warnings(action="ignore"):  # of tensors that cannot be written to
            return torch.from_numpy(mapped)


def _written(files: dict[str, IO[bytes]], entry: Entry) -> tuple[object, ...]:
    """Write an image's pixels and return its record."""
    image = entry.image
    files["pixels"].write(image.pixels.tobytes())
    if image.larger is not None:
        files["larger"].write(image.larger.tobytes())
    digest = pixels_digest(torch.from_numpy(image.pixels))
    return entry.content, digest, (image.height, image.width), image.marks
