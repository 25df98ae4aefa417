"""Labelled images as every dataset hands them out: raw bytes, no preprocessing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelledImages:
    """Images in memory with their labels and the domain each was drawn from.

    Attributes:
        images: ``(N, C, H, W)`` uint8, C is 1 (grey) or 3 (RGB).
        labels: ``(N,)`` int64, indices into ``Dataset.class_names``.
        domains: ``(N,)`` int64, indices into ``Dataset.domains``.
    """

    images: Tensor
    labels: Tensor
    domains: Tensor

    def __post_init__(self) -> None:
        """Refuse tensors whose shapes or dtypes do not fit together."""
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images: expected uint8 of shape (N, C, H, W), "
                f"found {self.images.dtype} of shape {tuple(self.images.shape)}"
            )
        if self.images.shape[1] not in (1, 3):
            raise ValueError(f"images: expected 1 or 3 channels, found {self.images.shape[1]}")
        expected = (self.images.shape[0],)
        for name in ("labels", "domains"):
            tensor: Tensor = getattr(self, name)
            if tensor.dtype != torch.int64 or tuple(tensor.shape) != expected:
                raise ValueError(
                    f"{name}: expected int64 of shape {expected}, "
                    f"found {tensor.dtype} of shape {tuple(tensor.shape)}"
                )

    def __len__(self) -> int:
        """Return the number of images N."""
        return int(self.images.shape[0])

    def select(self, indices: Tensor) -> LabelledImages:
        """Return the rows at ``indices`` (``(n,)`` int64), in that order."""
        return LabelledImages(self.images[indices], self.labels[indices], self.domains[indices])
