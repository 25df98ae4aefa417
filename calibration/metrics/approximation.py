"""A metric that additive sums give only approximately, with a bound on how far off it can be."""

from __future__ import annotations

from typing import NamedTuple


class Approximation(NamedTuple):
    """A value and its guarantee: ``|value - exact| <= bound``, whatever the examples were.

    Attributes:
        value: the approximate metric; NaN where there is nothing to measure.
        bound: the largest possible error, computed from the same sums; same unit as ``value``.
    """

    value: float
    bound: float
