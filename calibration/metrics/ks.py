"""The Kolmogorov-Smirnov calibration error: no bins, the largest cumulative gap.

Sorted by confidence, ``KS = max_i |(1/N) sum_{j <= i} (c_j - a_j)|``: the largest distance between
the cumulative confidence and the cumulative accuracy. Among equal confidences only the last counts.

Source: Gupta et al., "Calibration of neural networks using splines" (2021, arXiv 2006.12800).
"""

from __future__ import annotations

import math

import numpy as np

from fl2ora.calibration.metrics.approximation import Approximation
from fl2ora.calibration.predictions import ArrayLike, Scores, blocks_of_probabilities, scores_of
from fl2ora.calibration.stats import CalibrationStats


def ks_error(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the KS error of pooled ``probabilities (N, K)`` and ``labels (N,)``: exact.

    A fraction; NaN without examples. From sums it is only approximate: ``ks_error_of``.

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.6, 0.4], [0.9, 0.1]])  # wrong, then right: gaps .6 and -.1
        >>> round(ks_error(p, np.array([1, 0])), 4)
        0.3
    """
    return ks_error_of_scores(scores_of(blocks_of_probabilities(probabilities, labels)))


def ks_error_of_scores(scores: Scores) -> float:
    """Return the KS error of the examples behind ``scores``: exact."""
    if not scores.confidence.size:
        return math.nan
    order = np.argsort(scores.confidence, kind="stable")
    c = scores.confidence[order]
    cumulative = np.cumsum(c - scores.correct[order])
    last_of_ties = np.append(c[1:] != c[:-1], True)
    return float(np.abs(cumulative[last_of_ties]).max()) / len(c)


def ks_error_of(stats: CalibrationStats) -> Approximation:
    """Return the KS error from the fine histogram: approximate, and never too high.

    The cumulative gap is seen at the ends of the G fine bins alone. Inside a bin it can rise from
    its start by at most (wrong examples) x (upper edge) and must come down to its end by at most
    (right examples) x (1 - lower edge), and the same mirrored: this limits what was missed, the
    bound, to at most the largest ``n_g / N``. NaN without examples or a fine histogram.
    """
    n, bins = float(stats.fine_count.sum()), stats.spec.fine_bins
    if n == 0:
        return Approximation(math.nan, math.nan)
    end = np.cumsum(stats.fine_confidence - stats.fine_correct)
    start = np.concatenate([[0.0], end[:-1]])
    rise = (stats.fine_count - stats.fine_correct) * np.arange(1, bins + 1) / bins
    fall = stats.fine_correct * (1 - np.arange(bins) / bins)
    highest = np.minimum(start + rise, end + fall).max()
    lowest = np.maximum(start - fall, end - rise).min()
    value = float(np.abs(end).max())
    return Approximation(value / n, max(0.0, highest - value, -lowest - value) / n)
