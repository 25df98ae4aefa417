"""Labelled images as every dataset hands them out: raw bytes, in memory or in a mapped file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Digests = NDArray[np.bytes_]
DIGEST = "S16"
"""Type of ``Digests``: a BLAKE2b of 16 bytes."""


@dataclass(frozen=True)
class Pool:
    """All images of a dataset that lie together; parts of it are rows.

    Attributes:
        pixels: ``(M, C, H, W)`` uint8, C is 1 (grey) or 3 (RGB); may be of a file that is mapped
            into memory and cannot be written to.
        larger: ``(M, C, L, L)`` uint8, the same images scaled to a larger square whatever their
            shape, for random crops; None where crops come from ``pixels``.
        shapes: ``(M, 2)`` int64, height and width of what ``larger`` was scaled from.
        digests: ``(M,)`` of each image's pixels, where they are known already.
        files: ``(M,)`` of the files the images are in, where there are any.
    """

    pixels: Tensor
    larger: Tensor | None = None
    shapes: Tensor | None = None
    digests: Digests | None = None
    files: Digests | None = None


def digest_of(content: bytes | memoryview, kind: bytes = b"") -> bytes:
    """Return the BLAKE2b of some bytes, the kind that ``Digests`` hold.

    Its last bit is always 1, for numpy drops zeros at the end of a text.

    Args:
        content: the bytes.
        kind: at most 16 bytes; of another kind, equal bytes have other digests.
    """
    found = hashlib.blake2b(content, digest_size=16, person=kind).digest()
    return found[:-1] + bytes([found[-1] | 1])


def pixels_digest(image: Tensor) -> bytes:
    """Return the digest of one image ``(C, H, W)`` uint8, of its shape and its values."""
    shape = str(tuple(image.shape)).encode()[:16]
    return digest_of(image.contiguous().numpy().data, shape)


class ImageRows:
    """Some images of a pool, copied only where they are asked for.

    ``rows[3]``, ``rows[:8]`` and ``rows[torch.tensor([4, 1])]`` are tensors as those of ``Tensor``;
    ``rows[:]`` copies all there are.

    Args:
        pool: where they lie.
        numbers: ``(N,)`` int64, which of them, in order.

    Attributes:
        pool: see above.
        numbers: see above.
    """

    def __init__(self, pool: Pool, numbers: Tensor) -> None:
        self.pool = pool
        self.numbers = numbers

    @property
    def shape(self) -> torch.Size:
        """``(N, C, H, W)``."""
        return torch.Size((len(self.numbers), *self.pool.pixels.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """Always uint8."""
        return self.pool.pixels.dtype

    def __len__(self) -> int:
        """Return N."""
        return len(self.numbers)

    def __getitem__(self, index: int | slice | Tensor | tuple[Any, ...]) -> Tensor:
        """Return a copy of what a tensor of these images has at ``index``."""
        if isinstance(index, tuple):
            found = self[index[0]]
            return found[index[1:] if isinstance(index[0], int) else (slice(None), *index[1:])]
        if isinstance(index, int):
            return self.pool.pixels[self.numbers[index]].clone()  # never a view of the pool
        # Whole images at a time, where indexing would go byte by byte.
        return self.pool.pixels.index_select(0, self.numbers[index])

    def for_crops(self, index: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the images at ``index`` that random crops are cut from.

        Returns:
            ``(n, C, H, W)`` uint8, and ``(n, 2)`` height and width of the images before they were
            scaled to one size; None where they were not.
        """
        if self.pool.larger is None or self.pool.shapes is None:
            return self[index], None
        numbers = self.numbers[index]
        return self.pool.larger.index_select(0, numbers), self.pool.shapes[numbers]

    def key(self) -> str:
        """Return a text that differs where any image does."""
        found = hashlib.blake2b(str(tuple(self.shape)).encode(), digest_size=16)
        found.update(self.digests().tobytes())
        if self.pool.files is not None:
            found.update(self.pool.files[self.numbers.numpy()].tobytes())
        return found.hexdigest()

    def select(self, index: Tensor) -> ImageRows:
        """Return the rows at ``index`` without copying an image."""
        return ImageRows(self.pool, self.numbers[index])

    def digests(self, index: Tensor | None = None) -> Digests:
        """Return ``(n,)`` digests of the images' pixels; equal images have equal ones.

        Args:
            index: ``(n,)`` which rows; None: all.
        """
        numbers = self.numbers if index is None else self.numbers[index]
        if self.pool.digests is not None:
            known: Digests = self.pool.digests[numbers.numpy()]
            return known
        found = [pixels_digest(self.pool.pixels[number]) for number in numbers.tolist()]
        return np.array(found, dtype=DIGEST)


class JoinedRows:
    """Images of several pools, one after the other, copied only where they are asked for.

    Args:
        parts: at least one; of equal ``(C, H, W)``. Neighbours of one pool become one: thousands of
            clients may have a part each.
    """

    def __init__(self, parts: Sequence[ImageRows]) -> None:
        groups = [list(same) for _, same in groupby(parts, key=lambda part: id(part.pool))]
        self._parts = [
            ImageRows(same[0].pool, torch.cat([part.numbers for part in same])) for same in groups
        ]
        self._ends = np.cumsum([len(part) for part in self._parts]).tolist()

    @property
    def shape(self) -> torch.Size:
        """``(N, C, H, W)``."""
        return torch.Size((len(self), *self._parts[0].shape[1:]))

    def __len__(self) -> int:
        """Return N."""
        return int(self._ends[-1])

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Return a copy of the images at ``index``."""
        numbers = torch.arange(len(self))[index]
        copies = torch.empty((len(numbers), *self.shape[1:]), dtype=torch.uint8)
        for part, end in zip(self._parts, self._ends, strict=True):
            inside = (numbers >= end - len(part)) & (numbers < end)
            copies[inside] = part[numbers[inside] - (end - len(part))]
        return copies

    def for_crops(self, index: slice | Tensor) -> tuple[Tensor, None]:
        """Return the images at ``index`` as they are: they are measured on, not trained on."""
        return self[index], None

    def key(self) -> str:
        """Return a text that differs where any image does."""
        return " ".join(part.key() for part in self._parts)


@dataclass(frozen=True, init=False)
class LabelledImages:
    """Images with their labels and the domain each was drawn from.

    Attributes:
        images: N of ``(C, H, W)`` uint8, C is 1 (grey) or 3 (RGB); indexing gives tensors.
        labels: ``(N,)`` int64, indices into ``Dataset.class_names``.
        domains: ``(N,)`` int64, indices into ``Dataset.domains``.
        clients: whose image each is by nature, such as its photographer; None if nobody's.
    """

    images: ImageRows
    labels: Tensor
    domains: Tensor
    clients: tuple[str, ...] | None

    def __init__(
        self,
        images: Tensor | ImageRows,
        labels: Tensor,
        domains: Tensor,
        clients: Sequence[str] | None = None,
    ) -> None:
        if isinstance(images, Tensor):
            _check_images(images)
            images = ImageRows(Pool(images), torch.arange(len(images)))
        expected = (len(images),)
        for name, tensor in (("labels", labels), ("domains", domains)):
            if tensor.dtype != torch.int64 or tuple(tensor.shape) != expected:
                raise ValueError(
                    f"{name}: expected int64 of shape {expected}, "
                    f"found {tensor.dtype} of shape {tuple(tensor.shape)}"
                )
        if clients is not None and len(clients) != len(images):
            raise ValueError(f"clients: expected {len(images)} names, found {len(clients)}")
        given = images, labels, domains, None if clients is None else tuple(clients)
        for name, value in zip(("images", "labels", "domains", "clients"), given, strict=True):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.images)

    def select(self, indices: Tensor) -> LabelledImages:
        """Return the rows at ``indices`` (``(n,)`` int64), in that order; no pixel is copied."""
        clients = self.clients
        if clients is not None:
            clients = tuple(clients[index] for index in indices.tolist())
        return LabelledImages(
            self.images.select(indices), self.labels[indices], self.domains[indices], clients
        )


def _check_images(images: Tensor) -> None:
    """Refuse a tensor that is no images.

    Raises:
        ValueError: what was expected and what was found.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images: expected uint8 of shape (N, C, H, W), "
            f"found {images.dtype} of shape {tuple(images.shape)}"
        )
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images: expected 1 or 3 channels, found {images.shape[1]}")
