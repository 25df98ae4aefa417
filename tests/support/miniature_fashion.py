"""Fashion-MNIST's four files with a few images, each of which tells its number."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TRAINING = 2100  # 100 more than pre-training used


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """Return an IDX file's content."""
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def _numbered(count: int) -> NDArray[np.uint8]:
    """Images whose first two pixels tell their number, and whose last that of their file."""
    images = np.zeros((count, 28, 28), dtype=np.uint8)
    images[:, -1, -1] = count == TRAINING
    images[:, 0, 0], images[:, 0, 1] = np.arange(count) // 256, np.arange(count) % 256
    return images


def write_miniature(path: Path) -> None:
    """Write the four files: 2,100 training images and 30 others."""
    for part, count in (("train", TRAINING), ("t10k", 30)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        (path / f"{part}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(idx_bytes(_numbered(count)))
        )
        (path / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
