"""Raw images by the batch, from a tensor or from wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from fl2ora.clip_tuning.prefix.digest import digest


class ImageSource(Protocol):
    """Raw images that are copied only where they are asked for."""

    @property
    def shape(self) -> torch.Size:
        """``(N, C, H, W)``."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """Return the images at ``index``, ``(n, C, H, W)`` uint8."""

    def for_crops(self, index: slice | Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Return what random crops of the images at ``index`` are cut from.

        Returns:
            ``(n, C, L, L)`` uint8, and ``(n, 2)`` height and width before the images were scaled to
            one size; None where they were not.
        """

    def key(self) -> str:
        """Return a text that differs where any image does."""


Images: TypeAlias = Tensor | ImageSource


def batches(images: Images, size: int) -> Iterator[slice]:
    """Yield slices of at most ``size`` images that cover all.

    >>> list(batches(torch.zeros(5, 3, 2, 2), 3))
    [slice(0, 3, None), slice(3, 6, None)]
    """
    return (slice(start, start + size) for start in range(0, len(images), size))


def for_crops(images: Images, index: slice | Tensor) -> tuple[Tensor, Tensor | None]:
    """Return what random crops of the images at ``index`` are cut from; see ``ImageSource``."""
    return (images[index], None) if isinstance(images, Tensor) else images.for_crops(index)


def images_key(images: Images) -> str:
    """Return a text that differs where any image does."""
    return digest([images]) if isinstance(images, Tensor) else images.key()
