"""Proper scores: Brier and negative log-likelihood, and what the Brier score is made of.

Unlike a calibration error they cannot be gamed by predicting base rates, and they need no bins.
All are exact from additive client sums.

Sources: Brier, "Verification of forecasts expressed in terms of probability" (1950); Murphy, "A new
vector partition of the probability score" (1973); Stephenson, Coelho & Jolliffe, "Two extra
components in the Brier score decomposition" (2008), for the within-bin terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fl2ora.calibration.metrics.binned import bin_stats, filled_bins_of
from fl2ora.calibration.predictions import ArrayLike
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


@dataclass(frozen=True)
class BrierParts:
    """The top-1 Brier score in five parts; each a mean per example.

    Attributes:
        reliability: ``sum_b w_b s_b^2``, what miscalibration costs; 0 is best.
        resolution: ``sum_b w_b (acc_b - acc)^2``, what telling easy from hard gains.
        uncertainty: ``acc (1 - acc)``, what the task costs.
        within_variance: ``(1/N) sum (c - conf_b)^2``.
        within_covariance: ``(2/N) sum (c - conf_b)(a - acc_b)``.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float

    @property
    def total(self) -> float:
        """The top-1 Brier score: without the within-bin parts the sum would not be it."""
        between = self.reliability - self.resolution + self.uncertainty
        return between + self.within_variance - self.within_covariance


def brier_of(stats: CalibrationStats) -> float:
    """Return the multi-class Brier score ``(1/N) sum ||p - onehot(y)||^2`` in [0, 2]; exact.

    Some libraries divide by K, or score the top class alone (``brier_top1_of``).
    """
    return _mean(float(stats.brier), stats)


def brier_top1_of(stats: CalibrationStats) -> float:
    """Return the top-1 Brier score ``(1/N) sum (c - a)^2`` in [0, 1]; exact from sums."""
    squares = stats.confidence_squared - 2 * stats.confidence_correct + stats.correct
    return _mean(float(squares.sum()), stats)


def nll_of(stats: CalibrationStats) -> float:
    """Return ``-(1/N) sum log p_y`` in nats; exact from sums."""
    return _mean(float(stats.nll), stats)


def brier_parts_of(stats: CalibrationStats) -> BrierParts:
    """Return the five-part decomposition on ``spec.num_bins`` bins; exact from additive sums."""
    bins = filled_bins_of(stats)
    if not bins.count.size:
        return BrierParts(*[math.nan] * 5)
    n = bins.count.sum()
    squared, product = stats.confidence_squared[bins.index], stats.confidence_correct[bins.index]
    accuracy = float((bins.weight * bins.accuracy).sum())
    variance = (squared - bins.count * bins.confidence**2).sum() / n
    covariance = (product - bins.count * bins.confidence * bins.accuracy).sum() / n
    return BrierParts(
        reliability=float((bins.weight * bins.gap**2).sum()),
        resolution=float((bins.weight * (bins.accuracy - accuracy) ** 2).sum()),
        uncertainty=accuracy * (1 - accuracy),
        within_variance=float(variance),
        within_covariance=float(2 * covariance),
    )


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return ``brier_of`` pooled ``probabilities (N, K)`` and ``labels (N,)``.

    Example:
        >>> import numpy as np
        >>> round(brier(np.array([[0.8, 0.2]]), np.array([0])), 4)  # .2 squared, twice
        0.08
    """
    return brier_of(bin_stats(probabilities, labels, 1))


def brier_top1(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return ``brier_top1_of`` pooled ``probabilities (N, K)`` and ``labels (N,)``."""
    return brier_top1_of(bin_stats(probabilities, labels, 1))


def brier_parts(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> BrierParts:
    """Return ``brier_parts_of`` pooled ``probabilities (N, K)`` and ``labels (N,)``."""
    return brier_parts_of(bin_stats(probabilities, labels, num_bins))


def nll(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return ``nll_of`` pooled ``probabilities (N, K)`` and ``labels (N,)``.

    Infinite when a label has probability exactly 0: where logits exist, use ``nll_from_logits``.

    Example:
        >>> import numpy as np
        >>> round(nll(np.array([[0.5, 0.5]]), np.array([0])), 4)  # ln 2
        0.6931
    """
    return nll_of(bin_stats(probabilities, labels, 1))


def nll_from_logits(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return ``nll_of`` pooled ``logits (N, K)`` and ``labels (N,)``; never underflows."""
    return nll_of(CalibrationStats.from_logits(logits, labels, StatsSpec(1, fine_bins=0)))


def _mean(total: float, stats: CalibrationStats) -> float:
    n = float(stats.count.sum())
    return total / n if n else math.nan
