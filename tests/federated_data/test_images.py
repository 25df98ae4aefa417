"""Labelled images refuse what does not fit together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fl2ora.federated_data.images import LabelledImages


def _made(**changes: Any) -> LabelledImages:
    parts = {
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
