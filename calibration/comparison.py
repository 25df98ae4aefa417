"""Which of two models is better calibrated? A test that does not take noise for error.

ECE counts noise as error: its plug-in value is the larger the fewer the examples and the less
sharp the model, so two perfectly calibrated models differ in it, and an interval of that
difference says "better" where nothing is. What is compared here is the *squared* error of M
confidence bins, ``theta = sum_b P(b) E[c - a | b]^2``, whose estimate from pairs of different
units has no bias: with g_ub the gap sum (c - a) and n_ub the count of unit u in bin b,

    theta = sum_b w_b (sum_{u != v} g_ub g_vb) / (sum_{u != v} n_ub n_vb).

A unit is one example, which is the debiased error of Kumar et al., or one client. The p-value is
that of a score test, see ``fl2ora.calibration.error_difference``; the interval holds every
difference that the test does not reject. False claims and power: docs/calibration.md.

Sources: Kumar, Liang & Ma, "Verified uncertainty calibration" (2019, arXiv 1909.10155): the
unbiased square. Serfling, "Approximation theorems of mathematical statistics" (1980), ch. 5:
what such a square does where the error is 0. Cox & Hinkley, "Theoretical statistics" (1974):
score tests and their inversion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fl2ora.calibration.binning import Floats, bin_index, sum_by_bin
from fl2ora.calibration.comparison_sides import ratio, side_of_clients, side_of_sums
from fl2ora.calibration.error_difference import ScoreTest, Side
from fl2ora.calibration.predictions import Scores
from fl2ora.calibration.stats import CalibrationStats

LEAST_CLIENTS = 5
"""Fewer say too little about how clients vary."""


@dataclass(frozen=True)
class CalibrationDifference:
    """The difference in squared binned calibration error between two models, with its test.

    Attributes:
        value: error of the first minus error of the second, unbiased. A square: a gap of 0.01 in
            every bin makes 0.0001.
        low: lower end of the interval.
        high: upper end.
        p_value: two-sided, of both errors being equal.
        level: nominal coverage of the interval, for example 0.95.
        over: what is thought of as drawn, ``"examples"`` or ``"clients"``.
        first: squared error of the first model, unbiased and so below 0 at times.
        second: likewise of the second.
    """

    value: float
    low: float
    high: float
    p_value: float
    level: float
    over: Literal["examples", "clients"]
    first: float
    second: float

    @property
    def better(self) -> Literal["first", "second", "undecided"]:
        """Which model may be called better calibrated: the one thing to base a claim on."""
        if not self.p_value < 1 - self.level:
            return "undecided"
        return "first" if self.value < 0 else "second"


def compare_on_same_examples(
    first: Scores, second: Scores, *, num_bins: int = 15, level: float = 0.95, seed: int = 0
) -> CalibrationDifference:
    """Compare two models on the same N examples; example i of both is the same image.

    Args:
        first: scores of one model, ``scores_of(blocks_of_logits(logits, labels))``.
        second: scores of the other.
        num_bins: M, equal-width bins of confidence.
        level: nominal coverage of the interval, below 0.9995.
        seed: of the draws behind interval and p-value.

    Raises:
        ValueError: the two differ in length, or the level is out of range.

    Examples:
        Two models right on the same 800 of 1,000 images, sure by 0.8 and by 0.95:

        >>> import numpy as np
        >>> correct, none = np.repeat([1.0, 0.0], [800, 200]), np.zeros(1000)
        >>> one, two = (
        ...     Scores(np.full(1000, c), correct, none.astype(int), none, none) for c in (0.8, 0.95)
        ... )
        >>> compare_on_same_examples(one, two).better
        'first'
    """
    if len(first.confidence) != len(second.confidence):
        raise ValueError(
            "both models must score the same examples, found "
            f"{len(first.confidence)} and {len(second.confidence)}"
        )
    index = [bin_index(scores.confidence, num_bins) for scores in (first, second)]
    sides, rest = [], []
    for scores, bins in zip((first, second), index, strict=True):
        gaps = scores.confidence - scores.correct
        count = sum_by_bin(bins, None, num_bins)
        side = side_of_sums(
            count,
            sum_by_bin(bins, scores.confidence, num_bins),
            sum_by_bin(bins, scores.correct, num_bins),
            count,
            sum_by_bin(bins, gaps**2, num_bins),
        )
        sides.append(side)
        rest.append(gaps - ratio(sum_by_bin(bins, gaps, num_bins), count)[bins])
    cell = index[0] * num_bins + index[1]
    shared = sum_by_bin(cell, rest[0] * rest[1], num_bins**2).reshape(num_bins, num_bins)
    spread = [sum_by_bin(b, r**2, num_bins) for b, r in zip(index, rest, strict=True)]
    across = ratio(shared, np.sqrt(np.outer(*spread)))
    own = np.eye(num_bins)
    return _difference(sides, np.block([[own, across], [across.T, own]]), 0, level, seed, True)


def compare_over_examples(
    first: CalibrationStats, second: CalibrationStats, *, level: float = 0.95, seed: int = 0
) -> CalibrationDifference:
    """Compare two models on *different* examples, of any two numbers, from sums alone.

    For the same images under both models this is not the test: their noise is shared, and whether
    that makes it too wide or too narrow depends on the direction of the errors. Use
    ``compare_on_same_examples``, or ``compare_over_clients`` where only sums are known.

    Args:
        first: sums of one model.
        second: sums of the other; as many bins.
        level: as for ``compare_on_same_examples``.
        seed: likewise.

    Raises:
        ValueError: the bins differ, or the level is out of range.
    """
    _check_bins([first, second])
    sides = []
    for stats in (first, second):
        squares = stats.confidence_squared - 2 * stats.confidence_correct + stats.correct
        sides.append(
            side_of_sums(stats.count, stats.confidence, stats.correct, stats.count, squares)
        )
    return _difference(sides, np.eye(2 * first.spec.num_bins), 0, level, seed, True)


def compare_over_clients(
    first: Sequence[CalibrationStats],
    second: Sequence[CalibrationStats],
    *,
    same_clients: bool = True,
    level: float = 0.95,
    seed: int = 0,
) -> CalibrationDifference:
    """Compare the pooled calibration of two models where clients are what might have differed.

    Examples of one client may be as alike as they please, and may be the same images under both
    models. Needs the sums of each client: with fewer than 5 that have examples nothing is decided
    (NaN), and with 10 only large differences are found.

    Args:
        first: sums of every client under one model.
        second: sums of every client under the other.
        same_clients: entry k of both is the same client; False for two independent groups.
        level: as for ``compare_on_same_examples``.
        seed: likewise.

    Raises:
        ValueError: the bins differ, a group is empty, the groups are said to be the same and
            differ in length, or the level is out of range.
    """
    if not first or not second:
        raise ValueError(f"clients: expected some, found {len(first)} and {len(second)}")
    if same_clients and len(first) != len(second):
        raise ValueError(f"the clients must be the same, found {len(first)} and {len(second)}")
    _check_bins([*first, *second])
    m = first[0].spec.num_bins
    if not same_clients:
        first, second = ([c for c in group if c.num_examples] for group in (first, second))
    (one, left, ones), (two, right, twos) = (side_of_clients(g, m) for g in (first, second))
    if same_clients:
        rows = np.concatenate([left, right], axis=1)
    else:
        rows = np.concatenate([_apart(left, 0, m), _apart(right, 1, m)])
    scale = np.sqrt((rows**2).sum(axis=0))
    correlation = ratio(rows.T @ rows, np.outer(scale, scale))
    np.fill_diagonal(correlation, 1.0)
    return _difference([one, two], correlation, min(ones, twos) - 1, level, seed, False)


def _apart(rows: Floats, place: int, m: int) -> Floats:
    """Return ``rows (U, M)`` with M columns of 0 behind (place 0) or in front of them."""
    return np.pad(rows, ((0, 0), (place * m, (1 - place) * m)))


def _difference(
    sides: Sequence[Side],
    correlation: Floats,
    freedom: int,
    level: float,
    seed: int,
    examples: bool,
) -> CalibrationDifference:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number in (0, 1), found {level}")
    first, second = sides
    low = high = p_value = math.nan
    enough = examples or freedom + 1 >= LEAST_CLIENTS
    if enough and first.index.size and second.index.size:
        low, high, p_value = ScoreTest(first, second, correlation, freedom, seed).run(level)
    over: Literal["examples", "clients"] = "examples" if examples else "clients"
    value = first.square - second.square
    return CalibrationDifference(
        value, low, high, p_value, level, over, first.square, second.square
    )


def _check_bins(stats: Sequence[CalibrationStats]) -> None:
    bins = sorted({each.spec.num_bins for each in stats})
    if len(bins) > 1:
        raise ValueError(f"num_bins must be the same for all, found {bins}")
