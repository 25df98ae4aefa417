"""Checks of constructor arguments: each error names argument, expectation and finding."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(
    name: str,
    value: float,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Return ``value`` as a float if it is finite and ``above < value < below``.

    Raises:
        ValueError: ``value`` is no finite number or out of range.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and above < value < below and value >= at_least):
        limits = [
            f"{sign} {limit:g}"
            for sign, limit in ((">", above), (">=", at_least), ("<", below))
            if math.isfinite(limit)
        ]
        raise ValueError(
            f"{name}: expected a finite number {' and '.join(limits)}".rstrip()
            + f", found {value!r}"
        )
    return float(value)


def whole(name: str, value: int, *, at_least: int, at_most: int = 2**31 - 1) -> int:
    """Return ``value`` if it is a whole number in ``at_least..at_most``.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name}: expected a whole number >= {at_least}, found {value!r}")
    if value > at_most:
        raise ValueError(f"{name}: expected a whole number <= {at_most}, found {value!r}")
    return value


def flag(name: str, value: bool) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, found {value!r}")
    return value


def choice(name: str, value: str, options: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``options``.

    Raises:
        ValueError: it is not.
    """
    if value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(options)}, found {value!r}")
    return value
