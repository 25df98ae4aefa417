"""Reliability diagrams side by side, binned or smooth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl2ora.calibration.metrics.binned import accuracy_of, ece_of, mce_count_of, mce_of
from fl2ora.calibration.metrics.smooth import smooth_ece_of
from fl2ora.calibration.smooth_reliability import smooth_curve
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.reporting.plot_style import COLUMN, NOTHING, PAGE, empty, fitted, percent
from fl2ora.reporting.reliability_axes import (
    draw_bins,
    draw_counts,
    draw_curve,
    draw_density,
    draw_head,
    keys_of_bins,
    keys_of_curve,
    keys_of_means,
)

_WIDEST = 0.05  # kernel; the smooth ECE of a poor model is wider, and would flatten its curve
_STRIP = 0.4  # inches
_Panel = Callable[[Axes, Axes, CalibrationStats], str]


def panels_size(count: int, title: str = "") -> tuple[float, float]:
    """Return width and height in inches for ``count`` panels."""
    if count == 0:
        return NOTHING
    columns, rows, width = _grid(count)
    legend = 0.65 if width == COLUMN else 0.35
    return width, rows * (_side(columns, width) + _STRIP + 0.95) + legend + (0.2 if title else 0)


def draw_reliability(
    figure: Figure, panels: Mapping[str, CalibrationStats], title: str = ""
) -> None:
    """Draw the panels of ``fl2ora.reporting.plots.reliability_figure`` on an empty figure."""
    _draw(figure, panels, title, _binned, ("examples", keys_of_bins()))


def draw_smooth(figure: Figure, panels: Mapping[str, CalibrationStats], title: str = "") -> None:
    """Draw the panels of ``fl2ora.reporting.plots.smooth_figure`` on an empty figure."""
    _draw(figure, panels, title, _smooth, ("density", keys_of_curve()))


def _draw(
    figure: Figure,
    panels: Mapping[str, CalibrationStats],
    title: str,
    panel: _Panel,
    words: tuple[str, list[Any]],
) -> None:
    figure.suptitle(title, fontsize=8.5)
    if not panels:
        empty(figure)
        return
    strip, keys = words
    columns, rows, width = _grid(len(panels))
    ratios = [_side(columns, width), _STRIP] * rows
    axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=ratios)
    for pair in axes.reshape(rows, 2, columns).transpose(0, 2, 1).reshape(-1, 2)[len(panels) :]:
        pair[0].set_axis_off()
        pair[1].set_axis_off()
    for index, (name, stats) in enumerate(panels.items()):
        row, column = divmod(index, columns)
        above, below = axes[2 * row, column], axes[2 * row + 1, column]
        draw_head(above, fitted(name, width / columns - 0.4, 2), panel(above, below, stats))
        above.tick_params(labelbottom=False, labelleft=column == 0)
        below.set_xlabel("confidence (%)")
        if column == 0:
            above.set_ylabel("accuracy (%)")
            below.set_ylabel(strip)
    ncols = 2 if width == COLUMN else 4
    figure.legend(handles=[*keys, *keys_of_means()], loc="outside lower center", ncols=ncols)


def _binned(above: Axes, below: Axes, stats: CalibrationStats) -> str:
    draw_bins(above, stats)
    draw_counts(below, stats)
    ece, mce = percent(ece_of(stats)), percent(mce_of(stats))
    return f"{_size(stats)}\nECE {ece}, MCE {mce}{_images(stats)}"


def _smooth(above: Axes, below: Axes, stats: CalibrationStats) -> str:
    error = smooth_ece_of(stats).value
    width = min(error, _WIDEST) if error > 0 else None
    curve = smooth_curve(stats, bandwidth=width)
    draw_density(below, stats, curve)
    draw_curve(above, stats, curve)
    sigma = "-" if math.isnan(curve.bandwidth) else f"{curve.bandwidth:.2g}"
    return f"{_size(stats)}\nsmooth ECE {percent(error)}, σ {sigma}"


def _images(stats: CalibrationStats) -> str:
    """Return how many images decide the MCE."""
    return f" ({mce_count_of(stats):,.0f})" if stats.num_examples else ""


def _size(stats: CalibrationStats) -> str:
    return f"accuracy {percent(accuracy_of(stats))}, N {stats.num_examples:,}"


def _grid(count: int) -> tuple[int, int, float]:
    """Return columns, rows and width in inches: a column of the paper for two, else the page."""
    rows = max(1, math.ceil(count / 4))
    return max(1, math.ceil(count / rows)), rows, COLUMN if count <= 2 else PAGE


def _side(columns: int, width: float) -> float:
    """Return the height of a panel in inches, about its width."""
    return min(2.4, width / columns - 0.35)
