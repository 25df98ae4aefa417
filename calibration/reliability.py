"""What a reliability diagram shows, as numbers: binned and smooth, each with a bootstrap band.

Everything comes from additive sums, so the diagram of added clients is the diagram of the pooled
data: the bins exactly, the smooth curve up to the width of a fine bin.

Both bands are parametric bootstraps that hold the confidences (so also the number of examples in
each bin) as they were and draw again which predictions were right, example by example,
independently. They answer "how far could chance alone have moved this accuracy?", bin by bin and
not for all bins at once. They do not include the choice of clients, nor the likeness of examples
within a client: ``calibration.uncertainty`` resamples those. The accuracy that is drawn from is
shrunk by half an example towards each side, ``(A + 1/2) / (n + 1)``: drawn from ``A / n``, a bin
of three right predictions would show no uncertainty at all.

Sources: DeGroot & Fienberg, "The comparison and evaluation of forecasters" (1983), and
Niculescu-Mizil & Caruana, "Predicting good probabilities with supervised learning" (ICML 2005):
the diagram. Brocker & Smith, "Increasing the reliability of reliability diagrams" (2007): bars by
resampling. Blasiok & Nakkiran (2023, arXiv 2309.12236): the smooth diagram and its bandwidth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from calibration.binning import Floats, bin_edges
from calibration.metrics.smooth import smooth_ece_of
from calibration.stats import CalibrationStats

_TAIL = 6.0  # kernel widths after which a reflection no longer counts: exp(-18) = 1.5e-8


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
class SmoothCurve:
    """A reliability diagram smoothed with a kernel instead of cut into bins.

    Attributes:
        confidence: ``(P,)`` equally spaced from 0 to 1.
        accuracy: ``(P,)`` estimate of the accuracy at that confidence, in [0, 1]; NaN where the
            kernel holds less than one example.
        density: ``(P,)`` of the confidences, smoothed alike; its integral over [0, 1] is 1.
        bandwidth: width of the kernel, in units of confidence; NaN without examples.
    """

    confidence: Floats
    accuracy: Floats
    density: Floats
    bandwidth: float


@dataclass(frozen=True, eq=False)
class Band:
    """A pointwise interval around a curve or a row of bars.

    Attributes:
        low: lower ends, of the curve's shape; NaN where the curve is.
        high: upper ends, likewise.
        level: nominal coverage of each point, for example 0.95.
    """

    low: Floats
    high: Floats
    level: float


def reliability_bins(stats: CalibrationStats) -> ReliabilityBins:
    """Return the M bins; exact from additive sums."""
    return ReliabilityBins(
        edges=bin_edges(stats.spec.num_bins),
        count=stats.count.copy(),
        confidence=_ratio(stats.confidence, stats.count),
        accuracy=_ratio(stats.correct, stats.count),
    )


def accuracy_band(
    stats: CalibrationStats,
    rng: np.random.Generator,
    *,
    draws: int = 2000,
    level: float = 0.95,
) -> Band:
    """Return ``(M,)`` bootstrap intervals of each bin's accuracy, given the bin's count.

    Each draw takes ``Binomial(n_b, (A_b + 1/2) / (n_b + 1)) / n_b`` and the interval is that of the
    draws' percentiles. The module says what this holds fixed.

    Args:
        stats: sums over the examples.
        rng: equal generators give equal bands.
        draws: how many.
        level: coverage, in (0, 1).

    Raises:
        ValueError: ``draws`` below 1, or ``level`` outside (0, 1).
    """
    _check_draws(draws, level)
    low, high = np.full((2, stats.spec.num_bins), math.nan)
    filled = stats.count > 0
    count = np.rint(stats.count[filled])
    rate = _shrunk(stats.correct[filled], count)
    drawn = rng.binomial(count.astype(np.int64), rate, size=(draws, len(count))) / count
    low[filled], high[filled] = _percentiles(drawn, level)
    return Band(low, high, level)


def smooth_reliability(
    stats: CalibrationStats, *, points: int = 201, bandwidth: float | None = None
) -> SmoothCurve:
    """Return the accuracy as a smooth function of the confidence, from the fine histogram.

    With ``K`` the Gaussian kernel reflected at 0 and 1, the curve at ``t`` is
    ``t + sum_g (A_g - C_g) K(t, c_g) / sum_g n_g K(t, c_g)``, cut to [0, 1]. Smoothing ``a - c``
    rather than ``a`` keeps calibrated predictions on the diagonal right up to both ends. The mean
    distance to the diagonal, weighted with the density, then is the smooth ECE at this bandwidth.

    Args:
        stats: sums over the examples; all NaN without examples or without a fine histogram.
        points: ``P``, at least 2.
        bandwidth: of the kernel; by default the smooth ECE itself, which is the bandwidth that
            equals its own error. Never below the distance of two points.

    Raises:
        ValueError: ``points`` below 2, or ``bandwidth`` not positive.
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, found {points}")
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, found {bandwidth}")
    confidence: Floats = np.linspace(0.0, 1.0, points)
    centre, count, correct = _fine_cells(stats)
    if not centre.size:
        nothing: Floats = np.full(points, math.nan)
        return SmoothCurve(confidence, nothing, np.zeros(points), math.nan)
    width = smooth_ece_of(stats).value if bandwidth is None else bandwidth
    width = max(width, 1 / (points - 1))
    kernel = _reflected_gaussian(confidence, centre, width)
    held = kernel @ count
    residual = _ratio(kernel @ (correct - count * centre), np.where(held >= 1, held, 0))
    density = held / (count.sum() * width * math.sqrt(2 * math.pi))
    return SmoothCurve(confidence, np.clip(confidence + residual, 0, 1), density, width)


def smooth_band(
    stats: CalibrationStats,
    curve: SmoothCurve,
    rng: np.random.Generator,
    *,
    draws: int = 500,
    level: float = 0.95,
) -> Band:
    """Return ``(P,)`` bootstrap intervals of a smooth curve, given confidences and bandwidth.

    Each draw decides anew which predictions of each fine bin were right, with the accuracy that
    the curve has there, and smooths them as the curve was smoothed.

    Args:
        stats: the sums that ``curve`` was made from.
        curve: of ``smooth_reliability(stats, ...)``.
        rng: equal generators give equal bands.
        draws: how many.
        level: coverage, in (0, 1).

    Raises:
        ValueError: ``draws`` below 1, or ``level`` outside (0, 1).
    """
    _check_draws(draws, level)
    low, high = np.full((2, len(curve.confidence)), math.nan)
    shown = ~np.isnan(curve.accuracy)
    if not shown.any():
        return Band(low, high, level)
    centre, count, correct = _fine_cells(stats)
    around = _reflected_gaussian(centre, centre, curve.bandwidth)
    held = around @ count
    fitted = np.clip(centre + around @ (correct - count * centre) / held, 0, 1)
    rate = _shrunk(fitted * held, held)
    drawn = rng.binomial(np.rint(count).astype(np.int64), rate, size=(draws, len(count)))
    kernel = _reflected_gaussian(curve.confidence[shown], centre, curve.bandwidth)
    residual = (drawn - count * centre) @ kernel.T / (kernel @ count)
    low[shown], high[shown] = _percentiles(np.clip(curve.confidence[shown] + residual, 0, 1), level)
    return Band(low, high, level)


def _fine_cells(stats: CalibrationStats) -> tuple[Floats, Floats, Floats]:
    """Return mean confidence, count and correct of the non-empty fine bins, each ``(F,)``."""
    filled = stats.fine_count > 0
    count = stats.fine_count[filled]
    return stats.fine_confidence[filled] / count, count, stats.fine_correct[filled]


def _reflected_gaussian(at: Floats, centre: Floats, width: float) -> Floats:
    """Return ``(P, F)`` kernel values, the Gaussian of peak 1 reflected at 0 and 1."""
    far = math.ceil(_TAIL * width / 2 + 0.5)
    kernel = np.zeros((len(at), len(centre)))
    for shift in range(-far, far + 1):
        for image in (centre, -centre):
            kernel += np.exp(-0.5 * ((at[:, None] - image[None, :] - 2 * shift) / width) ** 2)
    return kernel


def _shrunk(correct: Floats, count: Floats) -> Floats:
    rate: Floats = np.clip((correct + 0.5) / (count + 1), 0, 1)
    return rate


def _percentiles(drawn: Floats, level: float) -> Floats:
    """Return ``(2, P)`` lower and upper percentiles of ``drawn (D, P)``."""
    ends = np.asarray([(1 - level) / 2, (1 + level) / 2])
    found: Floats = np.quantile(drawn, ends, axis=0)
    return found


def _ratio(total: Floats, count: Floats) -> Floats:
    return np.divide(total, count, out=np.full(len(count), math.nan), where=count > 0)


def _check_draws(draws: int, level: float) -> None:
    if draws < 1:
        raise ValueError(f"draws must be at least 1, found {draws}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), found {level}")
