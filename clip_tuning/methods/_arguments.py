"""Checks of constructor arguments: each error names argument, expectation and finding."""

from __future__ import annotations

import math
from collections.abc import Sequence


def whole(name: str, value: int, *, at_least: int) -> int:
    """Return ``value`` if it is a whole number of at least ``at_least``.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name}: expected a whole number >= {at_least}, found {value!r}")
    return value


def number(
    name: str,
    value: float,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> float:
    """Return ``value`` as a float if it is finite and within the limits.

    Raises:
        ValueError: it is not.
    """
    limits = [(">=", at_least), (">", above), ("<", below), ("<=", at_most)]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if (
        not is_number
        or not math.isfinite(value)
        or not at_least <= value <= at_most
        or not above < value < below
    ):
        shown = " and ".join(f"{sign} {limit:g}" for sign, limit in limits if math.isfinite(limit))
        raise ValueError(f"{name}: expected a number {shown}".rstrip() + f", found {value!r}")
    return float(value)


def choice(name: str, value: str, options: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``options``.

    Raises:
        ValueError: it is not.
    """
    if value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(options)}, found {value!r}")
    return value


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
