"""Figures of a comparison: two quantities against each other, curves, a heat map of the grid.

Each returns the text of an SVG or writes files, through ``drawn``; each shows runs that were
measured on the same images.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from fl2ora.reporting.comparison import zero_shot_row
from fl2ora.reporting.comparison_values import (
    ACCURACY,
    ECE,
    Groups,
    Quantity,
    by_round,
    distinct,
    estimate,
    mean_where,
    runs_of_lines,
)
from fl2ora.reporting.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILLION,
    empty,
    fitted,
    new_figure,
    save,
)

Draw = Callable[[Figure], None]

_PANELS = ((ACCURACY.name, ACCURACY.title), (ECE.name, ECE.title))
_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY, BLACK)
_MARKERS = "osD^vP*X<>"
_ID = re.compile(r'(\bid="|href="#|url\(#)')


def drawn(draw: Draw, size: tuple[float, float], path: Path) -> list[Path]:
    """Write a figure as PNG and SVG; ``size`` is its width and height in inches."""
    with new_figure(*size) as figure:
        draw(figure)
        return save(figure, path)


def svg(draw: Draw, size: tuple[float, float], prefix: str) -> str:
    """Return a figure as an SVG element for a page, where ids of others begin otherwise."""
    with new_figure(*size) as figure:
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return _ID.sub(rf"\g<1>{prefix}-", text[text.index("<svg") :])


def scatter(
    groups: Groups,
    axes_names: Sequence[str],
    source: str,
    across: Quantity = ACCURACY,
    up: Quantity = ECE,
) -> tuple[Draw, tuple[float, float]]:
    """Return how to draw one quantity against another for all groups, with 95 % intervals.

    Over seeds where there are several (Student's t), else over the images, by the bootstrap of the
    run. The first axis has the colours, the last one the markers. What spans more than a factor of
    ten, as bytes do, is drawn on a logarithmic scale.
    """
    firsts = distinct(groups, 0)
    lasts = distinct(groups, -1) if len(axes_names) > 1 else [""]

    def draw(figure: Figure) -> None:
        axes, found = figure.subplots(), []
        for labels, runs in groups.items():
            place = firsts.index(labels[0]), lasts.index(labels[-1]) if len(labels) > 1 else 0
            colour, marker = _COLOURS[place[0] % 8], _MARKERS[place[1] % 10]
            x, y = (_scaled(estimate(runs, q.name, source), q.scale) for q in (across, up))
            found.append(x[0])
            axes.errorbar(
                x[0], y[0], xerr=_bars(x), yerr=_bars(y), fmt=marker, color=colour, markersize=4,
                elinewidth=0.6, alpha=0.9,
            )  # fmt: skip
        start = zero_shot_row(next(iter(groups.values()))[0], source)
        known = {across.name, up.name} <= start.keys()
        if known:
            x0, y0 = across.scale * start[across.name], up.scale * start[up.name]
            axes.plot(x0, y0, "*", color=BLACK, markersize=9)
        elif up.name in start:
            axes.axhline(up.scale * start[up.name], color=BLACK, linewidth=0.8, linestyle=":")
        axes.set_xlabel(across.title)
        axes.set_ylabel(up.title)
        axes.set_ylim(bottom=0)
        if 0 < min(found) * 10 < max(found):
            axes.set_xscale("log")
            # Not as powers in TeX, which texts here are not; no labels at minor ticks.
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid()
        mark = "*" if known else ":"
        _legend(figure, axes, firsts, lasts, axes_names, mark)

    return draw, (PAGE * 0.75, 3.6)


def curves(
    groups: Groups, axes_names: Sequence[str], source: str
) -> tuple[Draw, tuple[float, float]]:
    """Return how to draw accuracy and ECE over rounds, mean and standard deviation as a band.

    Of up to eight groups each has a line, and the band is over seeds; of more, each choice of the
    first axis has one, over seeds and all other axes.
    """
    lines = runs_of_lines(groups)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharex=True)
        for axes, (name, title) in zip(panels, _PANELS, strict=True):
            for place, (label, runs) in enumerate(lines.items()):
                table = by_round(runs, name, source)
                mean, sd = 100 * table.mean(axis=1), 100 * table.std(axis=1).fillna(0)
                colour = _COLOURS[place % 8]
                axes.plot(mean.index, mean, color=colour, label=fitted(label, 2.6),
                          marker=_MARKERS[place % 10], markersize=3,
                          markevery=max(1, len(mean) // 10))  # fmt: skip
                axes.fill_between(
                    mean.index, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0
                )
            axes.set_ylabel(title)
            axes.set_xlabel("round (0: zero-shot)")
            axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
            axes.grid(axis="y")
        panels[1].set_ylim(bottom=0)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)

    return draw, (PAGE, 2.6 + 0.17 * math.ceil(len(lines) / 2))


def heat_map(
    groups: Groups, axes_names: Sequence[str], source: str
) -> tuple[Draw, tuple[float, float]] | None:
    """Return how to draw accuracy and ECE of the grid; None where no two axes have two choices.

    Rows and columns are the two axes with the most choices; a cell is the mean over all others.
    """
    sizes = [len(distinct(groups, place)) for place in range(len(axes_names))]
    ranked = sorted((p for p in range(len(sizes)) if sizes[p] > 1), key=lambda p: -sizes[p])
    if len(ranked) < 2:
        return None
    down, across = ranked[:2]
    names = distinct(groups, down), distinct(groups, across)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (metric, title) in zip(panels, _PANELS, strict=True):
            values = [[mean_where(groups, metric, source, {down: r, across: c}) for c in names[1]]
                      for r in names[0]]  # fmt: skip
            _grid(axes, np.array(values), names, "viridis" if metric == "accuracy" else "magma_r")
            axes.set_title(title)
            axes.set_xlabel(axes_names[across])
        panels[0].set_ylabel(axes_names[down])

    return draw, (PAGE, 1.6 + 0.28 * len(names[0]))


def no_figure(figure: Figure) -> None:
    """Say that there is nothing to draw."""
    empty(figure)


def _grid(
    axes: Axes, values: np.ndarray[Any, Any], names: tuple[list[str], list[str]], colours: str
) -> None:
    rows, columns = (np.arange(len(names[axis]) + 1) - 0.5 for axis in (0, 1))
    axes.pcolormesh(columns, rows, values, cmap=colours)
    axes.set_ylim(rows[-1], rows[0])
    axes.set_xticks(
        range(len(names[1])), [fitted(n, 1.0) for n in names[1]], rotation=30, ha="right"
    )
    axes.set_yticks(range(len(names[0])), [fitted(name, 1.6) for name in names[0]])
    axes.tick_params(length=0)
    low, high = np.nanmin(values, initial=np.inf), np.nanmax(values, initial=-np.inf)
    for (row, column), value in np.ndenumerate(values):
        if value == value:
            share = (value - low) / (high - low) if high > low else 0.0
            dark = share < 0.5 if colours == "viridis" else share > 0.5
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=6.5,
                      color="white" if dark else "black")  # fmt: skip


def _legend(
    figure: Figure,
    axes: Axes,
    firsts: Sequence[str],
    lasts: Sequence[str],
    names: Sequence[str],
    zero_shot: str,
) -> None:
    handles = [
        axes.plot([], [], "s", color=_COLOURS[place % 8], markersize=5, label=fitted(name, 2.0))[0]
        for place, name in enumerate(firsts)
    ]
    if len(lasts) > 1:
        handles += [
            axes.plot([], [], _MARKERS[place % 10], color="none", markeredgecolor=BLACK,
                      markersize=4, label=fitted(name, 2.0))[0]
            for place, name in enumerate(lasts)
        ]  # fmt: skip
    handles.append(axes.plot([], [], zero_shot, color=BLACK, markersize=8, label="zero-shot")[0])
    title = names[0] + (f" (colour), {names[-1]} (marker)" if len(lasts) > 1 else "")
    figure.legend(handles=handles, loc="outside right upper", title=fitted(title, 2.4, lines=2))


def _scaled(estimate: tuple[float, float, float], scale: float) -> tuple[float, float, float]:
    mean, low, high = estimate
    return scale * mean, scale * low, scale * high


def _bars(estimate: tuple[float, float, float]) -> list[list[float]] | None:
    """Return lengths below and above the mean; an interval need not hold it."""
    mean, low, high = estimate
    if low != low or high != high:
        return None
    return [[max(0.0, mean - low)], [max(0.0, high - mean)]]
