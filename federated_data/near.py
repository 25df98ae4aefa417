"""Images that look alike though their bytes differ: found by a perceptual hash.

``imagehash.phash``: the 64 signs of an image's lowest frequencies against their median (after
Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"). Scaling and
compressing again change a few bits of it, other images half of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.images import LabelledImages

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]

BITS = 64
MOST_APART = 16
"""Largest distance that can be asked for: a quarter of the bits."""

_PAIRS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Side:
    """Images that lie together.

    Attributes:
        name: of the side, such as a client or a held-out part.
        images: of it.
        hashes: ``(N,)``, of each image.
    """

    name: str
    images: LabelledImages
    hashes: Hashes


@dataclass(frozen=True)
class NearCopies:
    """Held-out images beside the training image that looks most like each.

    Attributes:
        held: ``(M, 2)`` side among those held out, and number in it.
        trained: ``(M, 2)`` side among those trained on, and number in it.
        distance: ``(M,)`` bits that differ, ascending.
    """

    held: Numbers
    trained: Numbers
    distance: Numbers


def check_library() -> None:
    """Refuse to go on without the library that makes the hashes.

    Raises:
        UserError: ``imagehash`` is not installed.
    """
    if find_spec("imagehash") is None:
        raise UserError("--near: needs the library imagehash: pip install 'fl2ora[near]'")


def perceptual_hashes(images: LabelledImages) -> Hashes:
    """Return the hash of each image, ``(N,)``; see ``check_library``."""
    import imagehash  # an extra

    found = np.empty(len(images), dtype=np.uint64)
    for number in range(len(images)):
        pixels = images.images[number].numpy()
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        found[number] = np.packbits(imagehash.phash(picture).hash).view(">u8")[0]
    return found


def near_pairs(hashes: Hashes, bits: int) -> tuple[Numbers, Numbers, Numbers]:
    """Return all pairs of different hashes that differ in at most ``bits`` bits.

    Two of them are equal in at least one of ``bits + 1`` bands of bits, so that only hashes with an
    equal band are compared.

    Args:
        hashes: ``(U,)`` that differ.
        bits: at most 63.

    Returns:
        Indices ``i < j``, and the distances, each ``(P,)``.

    >>> import numpy as np
    >>> near_pairs(np.array([0, 1, 7, 2**63], dtype=np.uint64), 1)[0].tolist()
    [0, 0]
    """
    found: list[NDArray[np.int64]] = [np.zeros((0, 3), dtype=np.int64)]
    edges = [BITS * band // (bits + 1) for band in range(bits + 2)]
    for low, high in itertools.pairwise(edges):
        mask = np.uint64(((1 << (high - low)) - 1) << low)
        found += _pairs_of_a_band(hashes, hashes & mask, bits)
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[:, 0], pairs[:, 1], pairs[:, 2]


def near_copies(trained: Sequence[Side], held: Sequence[Side], bits: int) -> NearCopies:
    """Return held-out images that look like a training image, each with the most alike.

    Args:
        trained: what is trained on.
        held: what is held out.
        bits: largest distance, 0 to ``MOST_APART``.
    """
    known, unique = _joined(trained), _joined(held)
    values = np.unique(np.concatenate([known.hashes, unique.hashes]))
    first = np.full(len(values), -1, dtype=np.int64)
    places = np.searchsorted(values, known.hashes)
    first[places[::-1]] = np.arange(len(places))[::-1]  # the first image of each hash
    one, other, apart = near_pairs(values, bits)
    same = np.arange(len(values))
    start = np.concatenate([same, one, other])
    end = np.concatenate([same, other, one])
    distance = np.concatenate([np.zeros_like(same), apart, apart])
    start, end, distance = (a[first[end] >= 0] for a in (start, end, distance))
    order = np.lexsort((end, distance, start))
    start, end, distance = start[order], end[order], distance[order]
    nearest = np.full(len(values), -1, dtype=np.int64)
    firsts = np.unique(start, return_index=True)
    nearest[firsts[0]] = firsts[1]
    link = nearest[np.searchsorted(values, unique.hashes)]
    (rows,) = np.nonzero(link >= 0)
    found = distance[link[rows]]
    rows = rows[np.argsort(found, kind="stable")]
    partner = first[end[link[rows]]]
    return NearCopies(unique.places[rows], known.places[partner], distance[link[rows]])


def near_elsewhere(sides: Sequence[Side], bits: int) -> int:
    """Return how many images look like one of another side."""
    joined = _joined(sides)
    values = np.unique(joined.hashes)
    at, owners = np.searchsorted(values, joined.hashes), joined.places[:, 0]
    low = np.full(len(values), len(sides), dtype=np.int64)
    high = np.full(len(values), -1, dtype=np.int64)
    np.minimum.at(low, at, owners)
    np.maximum.at(high, at, owners)
    one, other, _ = near_pairs(values, bits)
    around_low, around_high = low.copy(), high.copy()
    for here, there in ((one, other), (other, one)):
        np.minimum.at(around_low, here, low[there])
        np.maximum.at(around_high, here, high[there])
    return int(((around_low[at] != owners) | (around_high[at] != owners)).sum())


def counts_by_side(copies: NearCopies, held: Sequence[Side]) -> Mapping[str, int]:
    """Return how many images of each held-out side look like a training image."""
    sums = np.bincount(copies.held[:, 0], minlength=len(held)).tolist()
    return {side.name: count for side, count in zip(held, sums, strict=True)}


@dataclass(frozen=True)
class _Joined:
    """Images of several sides: ``hashes (N,)``, and ``places (N, 2)`` side and number in it."""

    hashes: Hashes
    places: Numbers


def _joined(sides: Sequence[Side]) -> _Joined:
    sizes = [len(side.hashes) for side in sides]
    numbers = [np.arange(size) for size in sizes]
    owners = np.repeat(np.arange(len(sides)), sizes)
    hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *(side.hashes for side in sides)])
    inside = np.concatenate([np.zeros(0, dtype=np.int64), *numbers])
    return _Joined(hashes, np.stack([owners, inside], axis=1))


def _pairs_of_a_band(hashes: Hashes, band: Hashes, bits: int) -> list[NDArray[np.int64]]:
    """Return pairs of at most ``bits`` that are equal in a band, as rows ``i, j, distance``."""
    order = np.argsort(band, kind="stable")
    _, first, sizes = np.unique(band[order], return_index=True, return_counts=True)
    # Every hash is compared with those behind it in its group.
    ends = np.repeat(first + sizes, sizes)
    behind = ends - np.arange(len(order)) - 1
    found = []
    begin = 0
    sums = np.cumsum(behind)
    while begin < len(order):
        done = sums[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(sums, done + _PAIRS_AT_ONCE, side="right")))
        count = behind[begin:end]
        one = np.repeat(np.arange(begin, end), count)
        offset = np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count)
        i, j = order[one], order[one + 1 + offset]
        apart = np.bitwise_count(hashes[i] ^ hashes[j]).astype(np.int64)
        near = apart <= bits
        rows = np.minimum(i, j)[near], np.maximum(i, j)[near], apart[near]
        found.append(np.stack(rows, axis=1))
        begin = end
    return found
