"""Smooth ECE: the calibration error after smoothing with a kernel instead of cutting into bins.

With ``r = a - c`` and ``K_s`` the Gaussian of width s reflected at 0 and 1, the smoothed error is
``smECE_s = integral over t in [0, 1] of |(1/N) sum_i r_i K_s(t, c_i)|``. It falls as s grows;
smooth ECE is the s that equals its own ``smECE_s``, so there is nothing to choose.

The reflected Gaussian is the heat kernel of [0, 1]: it multiplies the k-th cosine coefficient by
``exp(-(pi k s)^2 / 2)``. So residuals are spread linearly on a fine grid once, and every smoothing
is a cosine transform.

Source: Blasiok & Nakkiran, "Smooth ECE: principled reliability diagrams via kernel smoothing"
(2023, arXiv 2309.12236). Their package counts a point at exactly 0 or 1 half, and uses a coarser
grid, so its values differ in the third digit.
"""

from __future__ import annotations

import math

import numpy as np

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.metrics.approximation import Approximation
from fl2ora.calibration.predictions import ArrayLike, Scores, blocks_of_probabilities, scores_of
from fl2ora.calibration.stats import CalibrationStats

_GRID = 1 << 14  # cells; spreading linearly errs by at most 0.97 / (8 GRID^2 s^2)
_STEPS = 40  # bisections of [0, 1]


def smooth_ece(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the smooth ECE of pooled ``probabilities (N, K)`` and ``labels (N,)``.

    Exact up to the grid of 16,384 cells: below 1e-6 for values above 0.03. A fraction; NaN without
    examples. From sums it is approximate: ``smooth_ece_of``.

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.8, 0.2]] * 10)  # ten predictions of confidence 0.8, six of them right
        >>> round(smooth_ece(p, np.array([0] * 6 + [1] * 4)), 4)
        0.2
    """
    return smooth_ece_of_scores(scores_of(blocks_of_probabilities(probabilities, labels)))


def smooth_ece_of_scores(scores: Scores) -> float:
    """Return the smooth ECE of the examples behind ``scores``, exact up to the grid."""
    if not scores.confidence.size:
        return math.nan
    residuals = (scores.correct - scores.confidence) / len(scores.correct)
    return _fixed_point(_cosine_coefficients(scores.confidence, residuals))


def smooth_ece_of(stats: CalibrationStats) -> Approximation:
    """Return the smooth ECE from the fine histogram, each bin's residual at its mean: approximate.

    The bound: moving a residual by at most ``1 / G`` changes ``smECE_s`` by at most
    ``sqrt(2 / pi) / (G s)`` times its size, and ``mean |a - c|`` follows from the bin sums; with L
    their product, the fixed point moves by at most ``min(sqrt(L), L / value)``. In practice it
    moves far less. NaN without examples or without a fine histogram.
    """
    n = float(stats.fine_count.sum())
    if n == 0:
        return Approximation(math.nan, math.nan)
    kept = stats.fine_count > 0
    centre = stats.fine_confidence[kept] / stats.fine_count[kept]
    residual = (stats.fine_correct - stats.fine_confidence)[kept] / n
    value = _fixed_point(_cosine_coefficients(np.minimum(centre, 1.0), residual))
    size = (stats.correct - 2 * stats.confidence_correct + stats.confidence).sum() / n
    moved = math.sqrt(2 / math.pi) / stats.spec.fine_bins * max(0.0, float(size))
    bound = min(math.sqrt(moved), moved / value if value > 0 else math.inf)
    return Approximation(value, bound)


def _cosine_coefficients(position: Floats, residual: Floats) -> Floats:
    """Return the ``(GRID + 1,)`` cosine sums ``sum_i r_i cos(pi k c_i)`` of residuals on a grid."""
    scaled = position * _GRID
    cell = np.minimum(scaled.astype(np.int64), _GRID - 1)
    share = scaled - cell
    mass = np.bincount(cell, weights=residual * (1 - share), minlength=_GRID + 1)
    mass += np.bincount(cell + 1, weights=residual * share, minlength=_GRID + 1)
    mirrored = np.concatenate([mass, np.zeros(_GRID - 1)])
    coefficients: Floats = np.fft.rfft(mirrored).real
    return coefficients


def _smoothed_error(coefficients: Floats, width: float) -> float:
    """Return ``smECE_s``: smooth by ``width``, then integrate the absolute value over [0, 1]."""
    k = np.arange(len(coefficients))
    damped = coefficients * np.exp(-0.5 * (math.pi * k * width) ** 2)
    # 1 + 2 sum cos(pi k t) cos(pi k x): the inverse real transform doubles all but both ends.
    density = np.fft.irfft(damped, 2 * _GRID)[: _GRID + 1] * 2 * _GRID
    return float(np.trapezoid(np.abs(density), dx=1 / _GRID))


def _fixed_point(coefficients: Floats) -> float:
    """Return s with ``smECE_s = s``: the width is too small as long as the error exceeds it."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _smoothed_error(coefficients, middle) > middle:
            low = middle
        else:
            high = middle
    return low
