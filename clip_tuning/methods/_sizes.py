"""Sizes that follow from a model's."""

from __future__ import annotations


def hidden_units(size: int, reduction: int) -> int:
    """Return ``size // reduction``, the width of a hidden layer between features of ``size``.

    Raises:
        ValueError: that is 0.
    """
    if reduction > size:
        raise ValueError(
            f"reduction: expected at most {size}, the model's feature size, found {reduction}"
        )
    return size // reduction
