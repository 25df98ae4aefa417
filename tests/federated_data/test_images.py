"""Labelled images refuse what does not fit together."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from fl2ora.federated_data.images import (
    DIGEST,
    ImageRows,
    JoinedRows,
    LabelledImages,
    Pool,
    digest_of,
)


def _made(**changes: Any) -> LabelledImages:
    parts: dict[str, Any] = {
        "images": torch.arange(3 * 3 * 4 * 5, dtype=torch.uint8).view(3, 3, 4, 5),
        "labels": torch.tensor([2, 0, 1]),
        "domains": torch.tensor([0, 1, 0]),
    }
    return LabelledImages(**{**parts, **changes})


def test_rows_are_selected_in_the_order_given() -> None:
    whole = _made()
    part = whole.select(torch.tensor([2, 0, 2]))
    assert len(whole) == len(part) == 3
    assert part.labels.tolist() == [1, 2, 1]
    assert part.domains.tolist() == [0, 0, 0]
    assert torch.equal(part.images[:], whole.images[torch.tensor([2, 0, 2])])


def test_no_rows_are_fine() -> None:
    none = _made().select(torch.zeros(0, dtype=torch.int64))
    assert len(none) == 0
    assert none.images.shape == (0, 3, 4, 5)


def test_no_pixel_is_copied_by_selecting() -> None:
    whole = _made()
    part = whole.select(torch.tensor([2, 1])).select(torch.tensor([1]))
    assert part.images.pool is whole.images.pool
    assert part.images.numbers.tolist() == [1]


def test_images_are_indexed_as_a_tensor_is() -> None:
    images = _made().images
    whole = images[:]
    rows = torch.tensor([2, 0])
    assert torch.equal(images[1], whole[1])
    assert torch.equal(images[-1], whole[-1])
    assert torch.equal(images[1:], whole[1:])
    assert torch.equal(images[rows], whole[rows])
    assert torch.equal(images[torch.tensor([True, False, True])], whole[[0, 2]])
    assert torch.equal(images[:, 0, 0, 0], whole[:, 0, 0, 0])
    assert torch.equal(images[rows, 1], whole[rows, 1])
    assert torch.equal(images[2, 1:], whole[2, 1:])
    assert images.shape == whole.shape
    assert images.dtype == whole.dtype


def test_what_is_indexed_is_a_copy() -> None:
    images = _made().images
    before = images[:]
    for index in (0, slice(None), torch.tensor([1])):
        images[index].fill_(7)
    assert torch.equal(images[:], before)


def test_joined_rows_are_those_of_their_parts() -> None:
    whole = _made().images
    other = _made(images=torch.full((3, 3, 4, 5), 9, dtype=torch.uint8)).images
    parts = [whole.select(torch.tensor([1])), other, whole.select(torch.tensor([], dtype=LONG))]
    joined = JoinedRows([*parts, whole])
    expected = torch.cat([part[:] for part in (*parts, whole)])
    assert len(joined) == 7
    assert joined.shape == expected.shape
    assert torch.equal(joined[:], expected)
    assert torch.equal(joined[2:6], expected[2:6])
    rows = torch.tensor([6, 0, 3])
    assert torch.equal(joined[rows], expected[rows])
    assert torch.equal(joined.for_crops(rows)[0], expected[rows])
    assert joined.key() != JoinedRows([whole]).key()


def test_equal_images_have_equal_digests() -> None:
    rows = _made().select(torch.tensor([0, 1, 0])).images.digests().tolist()
    assert rows[0] == rows[2] != rows[1]
    flat = _made(images=torch.arange(180, dtype=torch.uint8).view(3, 3, 5, 4)).images
    assert flat.digests()[0] != rows[0]  # the same bytes in another shape
    assert _made().images.digests(torch.tensor([1])).tolist() == [rows[1]]


def test_keys_differ_where_images_do() -> None:
    whole = _made()
    keys = {
        whole.images.key(),
        whole.select(torch.tensor([0, 1])).images.key(),
        whole.select(torch.tensor([1, 0])).images.key(),
        whole.select(torch.tensor([0, 2])).images.key(),
    }
    assert len(keys) == 4
    assert _made().images.key() in keys


def test_keys_know_the_files_that_crops_are_cut_from() -> None:
    pixels = torch.zeros((2, 3, 4, 4), dtype=torch.uint8)
    larger, shapes = torch.zeros((2, 3, 8, 8), dtype=torch.uint8), torch.ones((2, 2)).long()
    keys = [
        ImageRows(Pool(pixels, larger, shapes, None, np.array(names)), torch.arange(2)).key()
        for names in ([b"a", b"b"], [b"a", b"c"])
    ]
    assert keys[0] != keys[1]


def test_clients_go_with_their_images() -> None:
    whole = _made(clients=["anna", "ben", "anna"])
    assert whole.clients == ("anna", "ben", "anna")
    assert whole.select(torch.tensor([1, 0])).clients == ("ben", "anna")
    assert _made().select(torch.tensor([0])).clients is None
    with pytest.raises(ValueError, match=r"^clients: expected 3 names, found 1$"):
        _made(clients=["anna"])


def test_digests_end_in_no_zero_which_numpy_would_drop() -> None:
    contents = [str(number).encode() for number in range(2000)]
    plain = [hashlib.blake2b(content, digest_size=16).digest() for content in contents]
    assert any(digest.endswith(b"\0") for digest in plain)
    digests = [digest_of(content) for content in contents]
    assert np.array(digests, dtype=DIGEST).tolist() == digests
    assert {len(digest) for digest in digests} == {16}
    assert len(set(digests)) == 2000


BYTES, LONG = torch.uint8, torch.int64
IMAGES = "expected uint8 of shape (N, C, H, W)"
ROWS = "expected int64 of shape (3,)"


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("images", torch.zeros(3, 3, 4, 5), f"{IMAGES}, found torch.float32 of shape (3, 3, 4, 5)"),
        (
            "images",
            torch.zeros(3, 4, 5).to(BYTES),
            f"{IMAGES}, found torch.uint8 of shape (3, 4, 5)",
        ),
        ("images", torch.zeros(3, 4, 5, 3).to(BYTES), "expected 1 or 3 channels, found 4"),
        ("labels", torch.zeros(3).int(), f"{ROWS}, found torch.int32 of shape (3,)"),
        ("labels", torch.zeros(2).to(LONG), f"{ROWS}, found torch.int64 of shape (2,)"),
        ("domains", torch.zeros(3, 1).to(LONG), f"{ROWS}, found torch.int64 of shape (3, 1)"),
        ("domains", torch.zeros(3), f"{ROWS}, found torch.float32 of shape (3,)"),
    ],
)
def test_what_does_not_fit_is_named(name: str, tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (compared below)
        _made(**{name: tensor})
    assert str(caught.value) == f"{name}: {message}"
