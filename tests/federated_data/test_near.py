"""Images that look alike: pairs against loops over all of them, and planted copies."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.near import (
    Side,
    counts_by_side,
    near_copies,
    near_elsewhere,
    near_pairs,
    perceptual_hashes,
)

# Few high and few low bits, so that many are near, across the edges of bands too.
VALUES = st.builds(
    lambda low, high, middle: (high << 60) | (middle << 30) | low,
    st.integers(0, 15),
    st.integers(0, 7),
    st.integers(0, 3),
)
LISTS = st.lists(st.lists(VALUES, max_size=6), min_size=1, max_size=4)
BITS = st.integers(0, 16)


def apart(one: int, other: int) -> int:
    return bin(one ^ other).count("1")


def side(name: str, values: list[int]) -> Side:
    labels = torch.zeros(len(values), dtype=torch.int64)
    pixels = torch.zeros((len(values), 1, 1, 1), dtype=torch.uint8)
    return Side(name, LabelledImages(pixels, labels, labels), np.array(values, dtype=np.uint64))


def sides(lists: list[list[int]]) -> list[Side]:
    return [side(str(index), values) for index, values in enumerate(lists)]


@given(st.lists(VALUES, unique=True, max_size=20), BITS)
def test_pairs_are_those_of_a_loop_over_all(values: list[int], bits: int) -> None:
    found = near_pairs(np.array(values, dtype=np.uint64), bits)
    expected = [
        (i, j, apart(values[i], values[j]))
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if apart(values[i], values[j]) <= bits
    ]
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected


def test_pairs_are_the_same_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.unique(np.random.default_rng(0).integers(0, 2**12, 300, dtype=np.uint64))
    whole = near_pairs(values, 3)
    monkeypatch.setattr("fl2ora.federated_data.near._PAIRS_AT_ONCE", 7)
    for mine, theirs in zip(near_pairs(values, 3), whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert len(whole[0]) > 1000


@given(LISTS, LISTS, BITS)
def test_each_held_out_image_has_its_nearest(trained: Any, held: Any, bits: int) -> None:
    found = near_copies(sides(trained), sides(held), bits)
    expected = {}
    for index, values in enumerate(held):
        for number, value in enumerate(values):
            distances = [apart(value, other) for of in trained for other in of]
            if distances and min(distances) <= bits:
                expected[index, number] = min(distances)
    rows = zip(found.held.tolist(), found.trained.tolist(), found.distance.tolist(), strict=True)
    assert {tuple(place): distance for place, _, distance in rows} == expected
    for (a, b), (c, d), distance in zip(
        found.held.tolist(), found.trained.tolist(), found.distance.tolist(), strict=True
    ):
        assert apart(held[a][b], trained[c][d]) == distance
    assert found.distance.tolist() == sorted(found.distance.tolist())
    counts = counts_by_side(found, sides(held))
    assert sum(counts.values()) == len(expected)


@given(LISTS, BITS)
def test_images_alike_on_two_sides_are_counted(lists: Any, bits: int) -> None:
    expected = sum(
        any(
            apart(value, other) <= bits
            for there, others in enumerate(lists)
            if there != here
            for other in others
        )
        for here, values in enumerate(lists)
        for value in values
    )
    assert near_elsewhere(sides(lists), bits) == expected


def photograph(seed: int) -> Image.Image:
    """Return something with structure at all scales, as photographs have."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8))
    layers = [noise.filter(ImageFilter.GaussianBlur(radius)) for radius in (2, 8, 24)]
    total = sum(np.asarray(layer, dtype=float) - 127 for layer in layers)
    stretched = 127 + total * 100 / np.abs(total).max()
    return Image.fromarray(stretched.astype(np.uint8))


def labelled(*pictures: Image.Image) -> LabelledImages:
    arrays = np.stack([np.asarray(picture.resize((64, 64))) for picture in pictures])
    labels = torch.zeros(len(arrays), dtype=torch.int64)
    return LabelledImages(torch.from_numpy(arrays).permute(0, 3, 1, 2).clone(), labels, labels)


def saved_again(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.resize((80, 80)).save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def test_what_was_scaled_and_compressed_again_is_near_and_others_are_not() -> None:
    originals = [photograph(seed) for seed in range(8)]
    copies = [saved_again(picture, 60) for picture in originals]
    one, other = perceptual_hashes(labelled(*originals)), perceptual_hashes(labelled(*copies))
    table = np.bitwise_count(one[:, None] ^ other[None, :])
    assert (np.diag(table) <= 8).all()
    assert (table[~np.eye(8, dtype=bool)] > 12).all()


def test_hashes_are_those_of_the_library() -> None:
    imagehash = pytest.importorskip("imagehash")
    data = labelled(photograph(0), photograph(1))
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in data.images[:]]
    expected = [int(str(imagehash.phash(picture)), 16) for picture in pictures]
    assert perceptual_hashes(data).tolist() == expected
