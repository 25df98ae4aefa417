"""Splitting images by what is in them: a new image moves no old one, copies stay together."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from fl2ora.federated_data.folders.listing import Split
from fl2ora.federated_data.images import Digests


def shares_of(contents: Digests, seed: int) -> NDArray[np.float64]:
    """Return ``(N,)`` numbers in [0, 1) that depend on each image's content and the seed alone."""
    key = str(seed).encode()
    numbers = [
        int.from_bytes(hashlib.blake2b(content, key=key, digest_size=8).digest(), "big")
        for content in contents.tolist()
    ]
    return np.array(numbers, dtype=np.uint64) / 2.0**64


def split_by_content(contents: Digests, validation: float, test: float, seed: int) -> list[Split]:
    """Return each image's split.

    Every image is drawn by itself, so each class has about its fractions, with the spread of a
    binomial; exact fractions would move old images when new ones come.

    Args:
        contents: ``(N,)`` digests of the images.
        validation: fraction of validation images.
        test: fraction of test images.
        seed: of the draw.
    """
    shares = shares_of(contents, seed)
    return [
        "test" if share < test else "validation" if share < test + validation else "train"
        for share in shares.tolist()
    ]
