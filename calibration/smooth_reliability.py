"""The reliability diagram smoothed with a kernel instead of cut into bins; numbers only.

Made from the fine histogram, so it is that of the pooled data up to the width of a fine bin.

Source: Blasiok & Nakkiran, "Smooth ECE: principled reliability diagrams via kernel smoothing"
(2023, arXiv 2309.12236): the diagram and its bandwidth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.metrics.smooth import smooth_ece_of
from fl2ora.calibration.reliability import Band, shrunk_rate
from fl2ora.calibration.stats import CalibrationStats

_TAIL = 6.0  # kernel widths after which a reflection no longer counts: exp(-18) = 1.5e-8


@dataclass(frozen=True, eq=False)
class SmoothCurve:
    """Accuracy as a smooth function of confidence.

    Attributes:
        confidence: ``(P,)`` equally spaced from 0 to 1.
        accuracy: ``(P,)`` estimate of the accuracy at that confidence, in [0, 1]; NaN beyond the
            least and greatest confidence, and where the kernel holds less than one example.
        density: ``(P,)`` of the confidences, smoothed alike; its integral over [0, 1] is 1, or 0
            without examples.
        bandwidth: width of the kernel, in units of confidence; NaN without examples.
    """

    confidence: Floats
    accuracy: Floats
    density: Floats
    bandwidth: float


def smooth_curve(
    stats: CalibrationStats, *, points: int = 201, bandwidth: float | None = None
) -> SmoothCurve:
    """Return the smoothed accuracy; all NaN without examples or without a fine histogram.

    With ``K`` the Gaussian kernel reflected at 0 and 1, the curve at ``t`` is
    ``t + sum_g (A_g - C_g) K(t, c_g) / sum_g n_g K(t, c_g)``, cut to [0, 1]. Smoothing ``a - c``
    rather than ``a`` keeps calibrated predictions on the diagonal right up to both ends. The mean
    distance to the diagonal, weighted with the density, then is the smooth ECE at this bandwidth,
    if the confidences reach from 0 to 1.

    Args:
        stats: sums over the examples.
        points: ``P``, at least 2.
        bandwidth: of the kernel, never below the distance of two points. By default the smooth ECE
            itself, which is the bandwidth that equals its own error; for predictions that are far
            off this is wide, and a smaller one shows more.

    Raises:
        ValueError: ``points`` below 2, or ``bandwidth`` not positive.
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, found {points}")
    if bandwidth is not None and not 0 < bandwidth < math.inf:
        raise ValueError(f"bandwidth must be positive, found {bandwidth}")
    confidence: Floats = np.linspace(0.0, 1.0, points)
    centre, count, correct = _fine_cells(stats)
    nothing: Floats = np.full(points, math.nan)
    if not centre.size:
        return SmoothCurve(confidence, nothing, np.zeros(points), math.nan)
    width = smooth_ece_of(stats).value if bandwidth is None else bandwidth
    spacing = 1 / (points - 1)
    width = max(width, spacing)
    kernel = _reflected_gaussian(confidence, centre, width)
    held = kernel @ count
    gap = kernel @ (correct - count * centre)
    inside = (confidence > centre.min() - spacing) & (confidence < centre.max() + spacing)
    residual = np.divide(gap, held, out=nothing, where=inside & (held >= 1))
    density = held / (count.sum() * width * math.sqrt(2 * math.pi))
    return SmoothCurve(confidence, np.clip(confidence + residual, 0.0, 1.0), density, width)


def smooth_band(
    stats: CalibrationStats,
    curve: SmoothCurve,
    rng: np.random.Generator,
    *,
    draws: int = 500,
    level: float = 0.95,
) -> Band:
    """Return ``(P,)`` bootstrap intervals of a smooth curve, given confidences and bandwidth.

    Each draw decides anew which predictions of each fine bin were right, with the accuracy that the
    curve has there, and smooths the difference this makes. It is the interval of the smoothed
    accuracy: what smoothing itself flattens is no matter of chance and not in it.

    Args:
        stats: the sums that ``curve`` was made from.
        curve: of ``smooth_curve(stats, ...)``.
        rng: equal generators give equal bands.
        draws: how many.
        level: coverage, in (0, 1).

    Raises:
        ValueError: ``draws`` is 0, or ``level`` lies outside (0, 1).
    """
    noise = np.full((draws, len(curve.confidence)), math.nan)
    shown = ~np.isnan(curve.accuracy)
    if shown.any():
        centre, count, correct = _fine_cells(stats)
        around = _reflected_gaussian(centre, centre, curve.bandwidth)
        held = around @ count
        fitted = np.clip(centre + around @ (correct - count * centre) / held, 0.0, 1.0)
        rate = shrunk_rate(fitted * held, held)
        drawn = rng.binomial(np.rint(count).astype(np.int64), rate, size=(draws, len(count)))
        kernel = _reflected_gaussian(curve.confidence[shown], centre, curve.bandwidth)
        noise[:, shown] = (drawn - count * fitted) @ kernel.T / (kernel @ count)
    return Band.of_draws(np.clip(curve.accuracy + noise, 0.0, 1.0), level)


def _fine_cells(stats: CalibrationStats) -> tuple[Floats, Floats, Floats]:
    """Return mean confidence, count and correct of the non-empty fine bins, each ``(F,)``."""
    filled = stats.fine_count > 0
    count = stats.fine_count[filled]
    return stats.fine_confidence[filled] / count, count, stats.fine_correct[filled]


def _reflected_gaussian(at: Floats, centre: Floats, width: float) -> Floats:
    """Return ``(P, F)`` kernel values: a Gaussian of peak 1, reflected at 0 and 1."""
    far = math.ceil(_TAIL * width / 2 + 0.5)
    kernel: Floats = np.zeros((len(at), len(centre)))
    for shift in range(-far, far + 1):
        for image in (centre, -centre):
            kernel += np.exp(-0.5 * ((at[:, None] - image[None, :] - 2 * shift) / width) ** 2)
    return kernel
