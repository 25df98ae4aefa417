"""Checks of plug-ins' arguments: each error names argument, expectation and finding."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fl2ora.experiment.errors import UserError, nearest


def whole(name: str, value: int, *, at_least: int) -> int:
    """Return ``value`` if it is a whole number of at least ``at_least``.

    Raises:
        UserError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise UserError(f"{name}: expected a whole number >= {at_least}, found {value!r}")
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
        UserError: it is not.
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
        raise UserError(f"{name}: expected a number {shown}".rstrip() + f", found {value!r}")
    return float(value)


def choice(name: str, value: str, options: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``options``.

    Raises:
        UserError: it is not; the message has the nearest option.
    """
    valid = tuple(options)
    if value not in valid:
        raise UserError(
            f"{name}: expected one of {', '.join(valid)}, "
            f"found {value!r}{nearest(str(value), valid)}"
        )
    return value
