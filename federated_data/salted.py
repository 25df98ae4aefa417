"""Digests of a node's images that tell equal images apart from others, and nothing else.

With a salt that is drawn anew for every run, they can neither be looked up in a table made before
nor be followed from run to run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fl2ora.federated_data.images import Digests, LabelledImages
from fl2ora.federated_data.leaks import digests
from fl2ora.federated_data.shares import ClientData

Salted = NDArray[np.uint64]
MOST = 65_536
"""Digests of one kind that leave a node."""

_BYTES = 8


@dataclass(frozen=True)
class SaltedImages:
    """Salted digests of what one client holds, each array sorted.

    Attributes:
        train: of what it trains on.
        calibration: of what calibrators are fitted on.
        test: of what it measures on.
    """

    train: Salted
    calibration: Salted
    test: Salted


def salted_images(
    data: ClientData, held_out: Sequence[LabelledImages], salt: bytes, most: int | None = MOST
) -> SaltedImages:
    """Return the digests of a client's images.

    Args:
        data: what it holds.
        held_out: what it measures on besides.
        salt: of the run.
        most: of one kind; of more images those with the smallest unsalted digests are taken, which
            are the same copies wherever they lie. None: all.
    """
    test = np.concatenate([digests(data.test), *map(digests, held_out)])
    kinds = digests(data.train), digests(data.calibration), test
    return SaltedImages(*(np.sort(salted(np.sort(found)[:most], salt)) for found in kinds))


def salted(found: Digests, salt: bytes) -> Salted:
    """Return 64 bits of each digest under a salt of at most 64 bytes, ``(N,)``, in its order.

    >>> import numpy as np
    >>> salted(np.array([b"image"], dtype="S16"), b"salt")
    array([13546166991680306191], dtype=uint64)
    """
    hashed = (hashlib.blake2b(one, digest_size=_BYTES, key=salt).digest() for one in found.tolist())
    return unpacked(b"".join(hashed))


def packed(found: Salted) -> bytes:
    """Return digests as bytes, eight for each."""
    return found.astype("<u8").tobytes()


def unpacked(text: bytes) -> Salted:
    """Return what ``packed`` was given."""
    return np.frombuffer(text, dtype="<u8").astype(np.uint64)


def without(images: LabelledImages, left_out: Salted, salt: bytes) -> LabelledImages:
    """Return the images whose digests are not among ``left_out``."""
    keep = ~np.isin(salted(digests(images), salt), left_out)
    return images.select(torch.from_numpy(np.flatnonzero(keep)))
