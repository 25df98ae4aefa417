"""What a reliability diagram shows, as numbers, with a bootstrap band; no drawing here.

Everything comes from additive sums, exactly: the diagram of added clients is the diagram of the
pooled data. The smooth form of the diagram is in ``fl2ora.calibration.smooth_reliability``.

The bands here and there are parametric bootstraps. They hold the confidences as they were (so also
the number of examples in each bin) and draw again, example by example and independently, which
predictions were right. They answer "how far could chance alone have moved this accuracy?", point
by point and not for all points at once. They leave out the choice of clients and the likeness of
examples within a client: ``fl2ora.calibration.uncertainty`` resamples clients.

Sources: DeGroot & Fienberg, "The comparison and evaluation of forecasters" (1983), and
Niculescu-Mizil & Caruana, "Predicting good probabilities with supervised learning" (ICML 2005):
the diagram. Brocker & Smith, "Increasing the reliability of reliability diagrams" (2007): bars by
resampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from fl2ora.calibration.binning import Floats, bin_edges
from fl2ora.calibration.stats import CalibrationStats


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """All M bins of a reliability diagram, empty ones included.

    Attributes:
        edges: ``(M + 1,)`` of the bins, from 0 to 1; right-closed, the first also holds 0.
        count: ``(M,)`` examples in the bin.
        confidence: ``(M,)`` mean confidence; NaN where the bin is empty.
        accuracy: ``(M,)`` fraction correct; NaN where the bin is empty.
    """

    edges: Floats
    count: Floats
    confidence: Floats
    accuracy: Floats

    @property
    def gap(self) -> Floats:
        """``(M,)`` confidence minus accuracy, positive where overconfident; NaN where empty."""
        gap: Floats = self.confidence - self.accuracy
        return gap


@dataclass(frozen=True, eq=False)
class Band:
    """An interval around each point of a curve or each bar of a row.

    Attributes:
        low: lower ends, of the curve's shape; NaN where there is nothing to measure.
        high: upper ends, likewise.
        level: nominal coverage of each point, for example 0.95.
    """

    low: Floats
    high: Floats
    level: float

    @classmethod
    def of_draws(cls, drawn: Floats, level: float) -> Self:
        """Return the percentiles that enclose the middle ``level`` of each column of ``(D, P)``.

        Raises:
            ValueError: there are no draws, or ``level`` lies outside (0, 1).
        """
        if len(drawn) < 1:
            raise ValueError("draws must be at least 1, found 0")
        if not 0 < level < 1:
            raise ValueError(f"level must lie in (0, 1), found {level}")
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return cls(low, high, level)


def reliability_bins(stats: CalibrationStats) -> ReliabilityBins:
    """Return the M bins; exact from additive sums.

    Example:
        >>> from fl2ora.calibration import CalibrationStats, StatsSpec
        >>> p = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]])
        >>> spec = StatsSpec(num_bins=2)
        >>> stats = CalibrationStats.from_probabilities(p, np.array([0, 0, 0, 1, 0]), spec)
        >>> bins = reliability_bins(stats)
        >>> bins.count.tolist(), bins.accuracy.tolist(), bins.confidence.round(4).tolist()
        ([0.0, 5.0], [nan, 0.8], [nan, 0.84])
    """
    count = stats.count.copy()
    nothing = np.full(len(count), math.nan)
    return ReliabilityBins(
        edges=bin_edges(stats.spec.num_bins),
        count=count,
        confidence=np.divide(stats.confidence, count, out=nothing.copy(), where=count > 0),
        accuracy=np.divide(stats.correct, count, out=nothing.copy(), where=count > 0),
    )


def accuracy_band(
    stats: CalibrationStats, rng: np.random.Generator, *, draws: int = 2000, level: float = 0.95
) -> Band:
    """Return ``(M,)`` bootstrap intervals of the accuracy of each bin, given its count.

    A draw is ``Binomial(n_b, shrunk_rate(A_b, n_b)) / n_b``; the module says what this holds fixed.

    Args:
        stats: sums over the examples.
        rng: equal generators give equal bands.
        draws: how many.
        level: coverage, in (0, 1).

    Raises:
        ValueError: ``draws`` is 0, or ``level`` lies outside (0, 1).
    """
    filled = stats.count > 0
    count = np.rint(stats.count[filled]).astype(np.int64)
    drawn = np.full((draws, len(stats.count)), math.nan)
    rate = shrunk_rate(stats.correct[filled], stats.count[filled])
    drawn[:, filled] = rng.binomial(count, rate, size=(draws, len(count))) / count
    return Band.of_draws(drawn, level)


def shrunk_rate(correct: Floats, count: Floats) -> Floats:
    """Return ``(A + 1/2) / (n + 1)``, the accuracy to draw from, of any shape.

    Drawn from ``A / n``, a bin of three right predictions would show no uncertainty at all. With
    this rate the 95 % interval covers the truth in 95 to 97 % of cases on average over all
    accuracies from n = 5 on, and more often below; with ``A / n`` it is 67 % at n = 5.
    """
    rate: Floats = np.clip((correct + 0.5) / (count + 1), 0.0, 1.0)
    return rate
