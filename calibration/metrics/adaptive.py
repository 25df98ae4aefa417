"""Equal-mass (adaptive) ECE and MCE: bins that hold equally many examples, not equal widths.

Sort by confidence, cut into M groups of N / M examples (the first N mod M one larger; N groups if
N < M) and take ``sum_g (n_g / N) |mean c - mean a|``, or the largest ``|mean c - mean a|``. Equal
confidences keep their order in the data, so ties across a cut make both depend on that order.

Sources: Nguyen & O'Connor, "Posterior calibration and exploratory analysis for natural language
processing models" (2015, arXiv 1508.05154); Mukhoti et al., "Calibrating deep neural networks
using focal loss" (2020, arXiv 2002.09437), whose interpolated edges differ slightly.
"""

from __future__ import annotations

import math

import numpy as np

from fl2ora.calibration.binning import Floats, Integers
from fl2ora.calibration.metrics.approximation import Approximation
from fl2ora.calibration.predictions import ArrayLike, blocks_of_probabilities, scores_of
from fl2ora.calibration.stats import CalibrationStats


def adaptive_ece(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Return the equal-mass ECE of pooled ``probabilities (N, K)`` and ``labels (N,)``: exact.

    A fraction; NaN without examples. From sums it is only approximate: ``adaptive_ece_of``.

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
        >>> round(adaptive_ece(p, np.array([0, 0, 1, 1]), num_bins=2), 4)  # (|-0.15| + 0.65) / 2
        0.4
    """
    scores = scores_of(blocks_of_probabilities(probabilities, labels))
    return equal_mass_error(scores.confidence, scores.correct, num_bins)


def mce_equal_mass(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Return the largest gap of equal-mass groups of pooled predictions: exact.

    Unlike ``mce`` no group is thin, unless N is. A fraction; NaN without examples.

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
        >>> round(mce_equal_mass(p, np.array([0, 0, 1, 1]), num_bins=2), 4)
        0.65
    """
    scores = scores_of(blocks_of_probabilities(probabilities, labels))
    return equal_mass_maximum(scores.confidence, scores.correct, num_bins)


def adaptive_ece_of(stats: CalibrationStats) -> Approximation:
    """Return the equal-mass ECE with ``spec.num_bins`` groups from the fine histogram: approximate.

    The bound is that of ``equal_mass_error_of``. NaN without examples or without a fine histogram.
    """
    fine = (stats.fine_count, stats.fine_confidence, stats.fine_correct)
    return equal_mass_error_of(*fine, stats.spec.num_bins)


def mce_equal_mass_of(stats: CalibrationStats) -> Approximation:
    """Return the largest gap of ``spec.num_bins`` equal-mass groups: approximate.

    The bound is the largest over groups of what its two cuts can hide, see ``equal_mass_error_of``,
    divided by its size. NaN without examples or without a fine histogram.
    """
    if not stats.fine_count.sum():
        return Approximation(math.nan, math.nan)
    fine = (stats.fine_count, stats.fine_confidence, stats.fine_correct)
    size, gap, doubt = _groups_of(*fine, stats.spec.num_bins)
    return Approximation(float((np.abs(gap) / size).max()), float((doubt / size).max()))


def equal_mass_error(values: Floats, outcomes: Floats, num_bins: int) -> float:
    """Return ``sum_g (n_g / N) |mean value - mean outcome|`` over equal-mass groups ``(N,)``."""
    _, gap = _groups(values, outcomes, num_bins)
    return float(np.abs(gap).sum()) / len(values) if len(values) else math.nan


def equal_mass_maximum(values: Floats, outcomes: Floats, num_bins: int) -> float:
    """Return ``max_g |mean value - mean outcome|`` over equal-mass groups ``(N,)``."""
    size, gap = _groups(values, outcomes, num_bins)
    return float((np.abs(gap) / size).max()) if len(values) else math.nan


def group_cuts(num_examples: int, num_bins: int) -> Integers:
    """Return the ``(groups + 1,)`` ranks at which sorted examples are cut, first 0, last N."""
    groups = min(num_bins, num_examples)
    sizes = np.full(groups, num_examples // groups, np.int64)
    sizes[: num_examples % groups] += 1
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def equal_mass_error_of(
    count: Floats, value_sum: Floats, outcome_sum: Floats, num_bins: int
) -> Approximation:
    """Return ``equal_mass_error`` from the sums ``(G,)`` of a histogram on [0, 1]: approximate.

    A cut that falls inside a cell takes a proportional share of the cell's sums. The bound: after
    k of a cell's n examples, A of them with outcome 1, the exact partial sum of value minus
    outcome can differ by at most ``min(k, A) (1 - max(k, A) / n)``, or the same with n - k for k,
    plus ``k (1 - k / n) / G`` for the values; and every cut touches two groups. It vanishes
    where cells are small, but not where many examples share one: a histogram resolves little
    near confidence 1.
    """
    n = float(count.sum())
    if n == 0:
        return Approximation(math.nan, math.nan)
    _, gap, doubt = _groups_of(count, value_sum, outcome_sum, num_bins)
    return Approximation(float(np.abs(gap).sum()) / n, float(doubt.sum()) / n)


def _groups(values: Floats, outcomes: Floats, num_bins: int) -> tuple[Integers, Floats]:
    """Return size and sum of value minus outcome of each equal-mass group of ``(N,)``."""
    if not len(values):
        return np.zeros(0, np.int64), np.zeros(0)
    gaps = (values - outcomes)[np.argsort(values, kind="stable")]
    cuts = group_cuts(len(values), num_bins)
    return np.diff(cuts), np.add.reduceat(gaps, cuts[:-1])


def _groups_of(
    count: Floats, value_sum: Floats, outcome_sum: Floats, num_bins: int
) -> tuple[Floats, Floats, Floats]:
    """Return ``(groups,)`` size, sum of value minus outcome, and how far off that sum can be."""
    n = round(float(count.sum()))
    cuts = group_cuts(n, num_bins).astype(np.float64)
    inner = cuts[1:-1]
    ends = np.cumsum(count)
    cell = np.searchsorted(ends, inner, side="left")  # the cell each cut falls in
    size, ones = count[cell], outcome_sum[cell]
    taken = inner - (ends[cell] - size)
    gaps = value_sum - outcome_sum
    at_cuts = (np.cumsum(gaps) - gaps)[cell] + gaps[cell] * taken / size
    groups = np.diff(np.concatenate([[0.0], at_cuts, [gaps.sum()]]))
    doubt = _partial_sum_bound(taken, ones, size) + taken * (1 - taken / size) / len(count)
    doubt = np.concatenate([[0.0], doubt, [0.0]])
    return np.diff(cuts), groups, doubt[1:] + doubt[:-1]


def _partial_sum_bound(taken: Floats, ones: Floats, size: Floats) -> Floats:
    """Return how far the ones among the first ``taken`` can be from ``taken * ones / size``.

    Any order of ``size`` zeros and ones, ``ones`` of them ones; all arrays of one shape.
    """

    def above(k: Floats) -> Floats:
        return np.minimum(k, ones) * (1 - np.maximum(k, ones) / size)

    return np.maximum(above(taken), above(size - taken))
