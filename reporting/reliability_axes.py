"""One panel of a reliability diagram, binned or smooth, drawn on given axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from fl2ora.calibration.metrics.binned import accuracy_of, confidence_of
from fl2ora.calibration.reliability import ReliabilityBins, accuracy_band, reliability_bins
from fl2ora.calibration.smooth_reliability import SmoothCurve, smooth_band
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.reporting.plot_style import BLACK, BLUE, GREEN, LIGHT, SKY, SMALL, VERMILLION, no_data

LEVEL = 0.95
FEW = 30  # examples: with fewer the interval of an accuracy is wider than about 0.3
_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_Look = Mapping[str, Any]
_BAR: _Look = {"facecolor": SKY, "edgecolor": "white", "linewidth": 0.4}
_OVER: _Look = {
    **{"facecolor": "#FBE3D3", "edgecolor": VERMILLION},
    **{"hatch": "/////", "linewidth": 0.5},
}
_UNDER: _Look = {
    **{"facecolor": "#D3EFE6", "edgecolor": GREEN},
    **{"hatch": "\\\\\\\\\\", "linewidth": 0.5},
}
_GAPS = ((1, _OVER), (-1, _UNDER))
_DIAGONAL: _Look = {"color": BLACK, "linewidth": 0.8, "linestyle": (0, (4, 2))}
_BAND: _Look = {"facecolor": BLUE, "alpha": 0.3, "linewidth": 0}
_ACCURACY: _Look = {"color": BLACK, "linewidth": 1.0}
_CONFIDENCE: _Look = {"color": BLACK, "linewidth": 1.0, "linestyle": (0, (1, 1))}


def draw_head(axes: Axes, name: str, values: str) -> None:
    """Write a panel's name in bold and, smaller, the values below it."""
    lines = values.count("\n") + 1
    axes.set_title(name, loc="left", fontweight="bold", pad=4 + 1.25 * SMALL * lines)
    axes.annotate(
        values, (0, 1), (0, 3), "axes fraction", "offset points",
        fontsize=SMALL, va="bottom", linespacing=1.2, annotation_clip=False,
    )  # fmt: skip


def draw_bins(axes: Axes, stats: CalibrationStats, *, faded: bool = False) -> None:
    """Draw accuracy bars, gap bars, the diagonal and bootstrap whiskers.

    Args:
        axes: to draw on.
        stats: sums over the examples.
        faded: let bins of fewer than ``FEW`` examples be pale, and whiskers thin.
    """
    _frame(axes)
    if not stats.num_examples:
        no_data(axes)
        return
    bins = reliability_bins(stats)
    shown = bins.count > 0
    centre, width = _bars(bins)
    opacity = np.clip(np.sqrt(bins.count / FEW), 0.25 if faded else 1.0, 1.0)
    _fade(axes.bar(centre[shown], bins.accuracy[shown], width, **_BAR), opacity[shown])
    for way, look in _GAPS:
        gap = shown & (way * np.nan_to_num(bins.gap) > 0)
        bars = axes.bar(centre[gap], bins.gap[gap], width, bottom=bins.accuracy[gap], **look)
        _fade(bars, opacity[gap])
    band = accuracy_band(stats, np.random.default_rng(0), level=LEVEL)
    low = np.minimum(band.low, bins.accuracy)[shown]
    high = np.maximum(band.high, bins.accuracy)[shown]
    axes.vlines(
        centre[shown], low, high, zorder=3,
        color=BLACK, linewidth=0.5 if faded else 0.9, alpha=opacity[shown],
    )  # fmt: skip


def draw_curve(axes: Axes, stats: CalibrationStats, curve: SmoothCurve) -> None:
    """Draw the smooth curve with its bootstrap band, its gap and the diagonal."""
    _frame(axes)
    if math.isnan(curve.bandwidth):
        no_data(axes, "no fine histogram" if stats.num_examples else "no data")
        return
    at, accuracy = curve.confidence, curve.accuracy
    for way, look in _GAPS:
        axes.fill_between(at, accuracy, at, where=way * (at - accuracy) > 0, **look)
    band = smooth_band(stats, curve, np.random.default_rng(0), level=LEVEL)
    axes.fill_between(at, band.low, band.high, zorder=3, **_BAND)
    axes.plot(at, accuracy, color=BLUE, linewidth=1.5, zorder=3)


def draw_counts(axes: Axes, stats: CalibrationStats) -> None:
    """Draw how many examples each bin has; the upright lines are the overall means."""
    bins = reliability_bins(stats)
    centre, width = _bars(bins)
    axes.bar(centre, bins.count, width, facecolor=LIGHT, edgecolor="white", linewidth=0.4)
    most = float(bins.count.max())
    axes.set_ylim(0, max(1.0, 1.1 * most))
    axes.set_yticks([0, most] if most else [0], ["0", _short(most)] if most else ["0"])
    _draw_means(axes, stats)


def draw_density(axes: Axes, stats: CalibrationStats, curve: SmoothCurve) -> None:
    """Draw the density of the confidences; the upright lines are the overall means."""
    axes.fill_between(curve.confidence, 0, curve.density, facecolor=LIGHT, linewidth=0)
    axes.set_ylim(0, max(1e-9, 1.1 * float(curve.density.max())))
    axes.set_yticks([])
    _draw_means(axes, stats)


def keys_of_bins() -> list[Any]:
    """Return the legend's entries for ``draw_bins``."""
    return [
        Patch(label="accuracy in the bin", **_BAR),
        *_gap_keys(),
        Line2D(
            *([], []), color=BLACK, linewidth=0, marker="|", markersize=8, markeredgewidth=0.9,
            label=f"{100 * LEVEL:.0f} % bootstrap interval",
        ),
        Line2D([], [], label="calibrated", **_DIAGONAL),
    ]  # fmt: skip


def keys_of_curve() -> list[Any]:
    """Return the legend's entries for ``draw_curve``."""
    return [
        Line2D([], [], color=BLUE, linewidth=1.5, label="accuracy, smoothed by σ"),
        *_gap_keys(),
        Patch(label=f"{100 * LEVEL:.0f} % bootstrap band", **_BAND),
        Line2D([], [], label="calibrated", **_DIAGONAL),
    ]


def keys_of_means() -> list[Any]:
    """Return the legend's entries for the upright lines of the strip below."""
    return [
        Line2D([], [], label="overall accuracy", **_ACCURACY),
        Line2D([], [], label="overall confidence", **_CONFIDENCE),
    ]


def _gap_keys() -> list[Any]:
    return [
        Patch(label="gap, overconfident", **_OVER),
        Patch(label="gap, underconfident", **_UNDER),
    ]


def _frame(axes: Axes) -> None:
    """Draw the diagonal; let both axes run to 100 %, with ticks at the quarters."""
    axes.plot([0, 1], [0, 1], **_DIAGONAL)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    labels = [f"{100 * tick:.0f}" for tick in _QUARTERS]
    axes.set_xticks(_QUARTERS, labels)
    axes.set_yticks(_QUARTERS, labels)


def _fade(bars: Any, opacity: NDArray[np.float64]) -> None:
    for bar, alpha in zip(bars, opacity, strict=True):
        bar.set_alpha(alpha)


def _bars(bins: ReliabilityBins) -> tuple[NDArray[np.float64], float]:
    return (bins.edges[1:] + bins.edges[:-1]) / 2, float(bins.edges[1])


def _draw_means(axes: Axes, stats: CalibrationStats) -> None:
    axes.set_xlim(0, 1)
    axes.set_xticks(_QUARTERS, [f"{100 * tick:.0f}" for tick in _QUARTERS])
    if stats.num_examples:
        axes.axvline(accuracy_of(stats), **_ACCURACY)
        axes.axvline(confidence_of(stats), **_CONFIDENCE)


def _short(count: float) -> str:
    """Return a count in at most six characters: 12,345 or 1.2M."""
    if count < 100_000:
        return f"{count:,.0f}"
    power = int(math.log10(count)) // 3
    return f"{count / 1000**power:.3g}{'kMGTP'[power - 1]}"
