"""Metrics of the reliability diagram: everything that follows from per-bin sums.

All of them are exact from additive client sums: the ``*_of(stats)`` forms take the
``CalibrationStats`` of one client, of the pooled data or of added clients alike; the other forms
take pooled ``probabilities (N, K)`` and ``labels (N,)``. Bins are equal-width and right-closed, see
``calibration.binning``. With ``n_b``, ``C_b``, ``A_b`` a bin's count, confidence sum and correct
sum: weight ``w_b = n_b / N`` and signed gap ``s_b = (C_b - A_b) / n_b``, positive when
overconfident. Empty bins contribute nothing. Values are fractions; NaN without examples.

Sources: Naeini, Cooper & Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
binning" (AAAI 2015): ECE, MCE. Guo et al. (2017, arXiv 1706.04599): their use for networks.
Thulasidasan et al., "On mixup training" (2019, arXiv 1905.11001): overconfidence error.
Neumann et al. (2018): average calibration error. Kumar, Liang & Ma, "Verified uncertainty
calibration" (2019, arXiv 1909.10155): the debiased error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fl2ora.calibration.binning import Floats, Integers
from fl2ora.calibration.predictions import ArrayLike
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


@dataclass(frozen=True)
class FilledBins:
    """The non-empty bins of a reliability diagram; all ``(B,)`` with ``B <= M``.

    Attributes:
        index: int64, which of the M bins.
        count: examples in the bin, ``n_b``.
        confidence: mean confidence ``C_b / n_b``.
        accuracy: fraction correct ``A_b / n_b``.
    """

    index: Integers
    count: Floats
    confidence: Floats
    accuracy: Floats

    @property
    def weight(self) -> Floats:
        """``w_b = n_b / N``."""
        weight: Floats = self.count / self.count.sum()
        return weight

    @property
    def gap(self) -> Floats:
        """``s_b``: mean confidence minus accuracy."""
        gap: Floats = self.confidence - self.accuracy
        return gap


def filled_bins_of(stats: CalibrationStats) -> FilledBins:
    """Return the non-empty bins; exact from additive sums."""
    index = np.flatnonzero(stats.count)
    count = stats.count[index]
    return FilledBins(index, count, stats.confidence[index] / count, stats.correct[index] / count)


def accuracy_of(stats: CalibrationStats) -> float:
    """Return the fraction of correct predictions; exact from additive sums."""
    return _mean(stats.correct.sum(), stats)


def confidence_of(stats: CalibrationStats) -> float:
    """Return the mean confidence; exact from additive sums."""
    return _mean(stats.confidence.sum(), stats)


def ece_of(stats: CalibrationStats) -> float:
    """Return the expected calibration error ``sum_b w_b |s_b|``; exact from additive sums."""
    return _mean(np.abs(stats.confidence - stats.correct).sum(), stats)


def mce_of(stats: CalibrationStats, *, min_count: int = 1) -> float:
    """Return the maximum calibration error ``max_b |s_b|``; exact from additive sums.

    Args:
        stats: sums over the examples.
        min_count: ignore bins with fewer examples: a bin of one example has a gap near 0.5
            however well calibrated it is. NaN when no bin is left.
    """
    bins = filled_bins_of(stats)
    gaps = np.abs(bins.gap)[bins.count >= min_count]
    return float(gaps.max()) if gaps.size else math.nan


def mce_count_of(stats: CalibrationStats) -> float:
    """Return how many examples the bin holds whose gap is ``mce_of``; exact from additive sums.

    Of equal gaps the fullest bin counts. NaN without examples. An MCE of one or two examples says
    nothing about the model.
    """
    bins = filled_bins_of(stats)
    gaps = np.abs(bins.gap)
    return float(bins.count[gaps == gaps.max()].max()) if gaps.size else math.nan


def mce_weighted_of(stats: CalibrationStats) -> float:
    """Return ``max_b w_b |s_b|``, never above ECE; exact from additive sums.

    Some codebases print this as "MCE"; it is another quantity than Naeini's ``mce_of``.
    """
    return _mean(np.abs(stats.confidence - stats.correct).max(), stats)


def average_ce_of(stats: CalibrationStats) -> float:
    """Return the unweighted mean of ``|s_b|`` over non-empty bins; exact from additive sums."""
    gaps = np.abs(filled_bins_of(stats).gap)
    return float(gaps.mean()) if gaps.size else math.nan


def rmsce_of(stats: CalibrationStats) -> float:
    """Return the root mean square error ``sqrt(sum_b w_b s_b^2)``; exact from additive sums."""
    bins = filled_bins_of(stats)
    return math.sqrt(float((bins.weight * bins.gap**2).sum())) if bins.count.size else math.nan


def over_confidence_of(stats: CalibrationStats) -> float:
    """Return the overconfident part of ECE, ``sum_b w_b max(s_b, 0)``; exact from additive sums.

    Together with ``under_confidence_of`` it sums to ECE; their difference is mean confidence
    minus accuracy.
    """
    return _mean(np.maximum(stats.confidence - stats.correct, 0).sum(), stats)


def under_confidence_of(stats: CalibrationStats) -> float:
    """Return the underconfident part of ECE, ``sum_b w_b max(-s_b, 0)``; exact from sums."""
    return _mean(np.maximum(stats.correct - stats.confidence, 0).sum(), stats)


def overconfidence_error_of(stats: CalibrationStats) -> float:
    """Return Thulasidasan's ``sum_b w_b conf_b max(s_b, 0)``; exact from additive sums."""
    bins = filled_bins_of(stats)
    if not bins.count.size:
        return math.nan
    return float((bins.weight * bins.confidence * np.maximum(bins.gap, 0)).sum())


def debiased_squared_ce_of(stats: CalibrationStats) -> float:
    """Return Kumar's ``sum_b w_b (s_b^2 - acc_b (1 - acc_b) / (n_b - 1))``; exact from sums.

    The plug-in square overstates the error, as ``acc_b`` is itself noisy; this estimate is
    unbiased for fixed bins and may be negative. Bins of one example count as 0.
    """
    bins = filled_bins_of(stats)
    if not bins.count.size:
        return math.nan
    noise = bins.accuracy * (1 - bins.accuracy) / np.maximum(bins.count - 1, 1)
    terms = np.where(bins.count > 1, bins.gap**2 - noise, 0.0)
    return float((bins.weight * terms).sum())


def debiased_ce_of(stats: CalibrationStats) -> float:
    """Return ``sqrt(max(0, debiased_squared_ce_of(stats)))``; exact from additive sums."""
    square = debiased_squared_ce_of(stats)
    return square if math.isnan(square) else math.sqrt(max(0.0, square))


def ece(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Return the ECE of pooled ``probabilities (N, K)``, ``labels (N,)``; see ``ece_of``.

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.8, 0.2]] * 10)  # ten predictions of confidence 0.8, six of them right
        >>> round(ece(p, np.array([0] * 6 + [1] * 4)), 4)
        0.2
    """
    return ece_of(bin_stats(probabilities, labels, num_bins))


def mce(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, min_count: int = 1
) -> float:
    """Return the MCE of pooled ``probabilities (N, K)``, ``labels (N,)``; see ``mce_of``.

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.8, 0.2]] * 9 + [[0.6, 0.4]])
        >>> labels = np.array([0] * 9 + [1])
        >>> round(mce(p, labels), 4), round(mce(p, labels, min_count=2), 4)  # one example decides
        (0.6, 0.2)
    """
    return mce_of(bin_stats(probabilities, labels, num_bins), min_count=min_count)


def mce_weighted(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Return the count-weighted maximum of pooled predictions; see ``mce_weighted_of``."""
    return mce_weighted_of(bin_stats(probabilities, labels, num_bins))


def average_ce(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Return the average calibration error of pooled predictions; see ``average_ce_of``."""
    return average_ce_of(bin_stats(probabilities, labels, num_bins))


def rmsce(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Return the root mean square error of pooled predictions; see ``rmsce_of``."""
    return rmsce_of(bin_stats(probabilities, labels, num_bins))


def over_confidence(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Return the overconfident part of ECE of pooled predictions; see ``over_confidence_of``."""
    return over_confidence_of(bin_stats(probabilities, labels, num_bins))


def under_confidence(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Return the underconfident part of ECE of pooled predictions; see ``under_confidence_of``."""
    return under_confidence_of(bin_stats(probabilities, labels, num_bins))


def overconfidence_error(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> float:
    """Return Thulasidasan's error of pooled predictions; see ``overconfidence_error_of``."""
    return overconfidence_error_of(bin_stats(probabilities, labels, num_bins))


def debiased_ce(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Return Kumar's debiased error of pooled predictions; see ``debiased_ce_of``."""
    return debiased_ce_of(bin_stats(probabilities, labels, num_bins))


def bin_stats(probabilities: ArrayLike, labels: ArrayLike, num_bins: int) -> CalibrationStats:
    """Return the statistics of pooled ``probabilities (N, K)`` without a fine histogram."""
    return CalibrationStats.from_probabilities(
        probabilities, labels, StatsSpec(num_bins=num_bins, fine_bins=0)
    )


def _mean(total: float, stats: CalibrationStats) -> float:
    n = float(stats.count.sum())
    return float(total) / n if n else math.nan
