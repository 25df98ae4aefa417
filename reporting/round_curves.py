"""The headline metrics, accuracy and ECE, over the rounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from fl2ora.calibration.metrics.table import METRICS
from fl2ora.reporting.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    no_data,
)
from fl2ora.reporting.sources import (
    CLIENTS_TEST,
    SERVER_TEST,
    central_sources,
    own_sources,
    part_of,
)

_METRICS = [metric for metric in METRICS if metric.headline]
_LINES: dict[str, dict[str, Any]] = {
    SERVER_TEST: {"color": BLUE, "marker": "o", "label": "server's test set"},
    CLIENTS_TEST: {"color": VERMILLION, "marker": "s", "label": "clients' images, pooled"},
    "clients-test-mean": {
        **{"color": GREEN, "marker": "^", "linestyle": (0, (3, 1.5))},
        **{"label": "mean of clients ± sd"},
    },
}
_COLORS, _SHAPES = (BLUE, ORANGE, PURPLE, SKY, BLACK), ("o", "D", "v", "P", "X", "*", "<")
_BANDS = {"clients-test-mean": "clients-test-sd"}
_MARKERS = 12  # a line, at most: more would hide it


def draw_rounds(figure: Figure, table: pd.DataFrame, changes: Sequence[int] = ()) -> None:
    """Draw the two panels of ``fl2ora.reporting.plots.rounds_figure`` on an empty figure."""
    looks = _looks(table)
    panels = figure.subplots(len(_METRICS), 1, sharex=True)
    handles: dict[str, Any] = {}
    for axes, metric in zip(panels, _METRICS, strict=True):
        drawn = {source: _line(axes, table, metric.name, source, looks) for source in looks}
        handles |= {source: line for source, line in drawn.items() if line is not None}
        axes.set_ylabel(f"{metric.title} (%)")
        axes.grid(axis="y")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        if not any(line is not None for line in drawn.values()):
            no_data(axes)
            axes.set_yticks([])
    if handles and changes:
        for axes in panels:
            for number in changes:  # between the last round of before and the first of after
                line = axes.axvline(number - 0.5, color=BLACK, linestyle=":", linewidth=0.8)
        line.set_label("other clients measured")
        handles["changes"] = line
    if handles:
        panels[1].set_ylim(bottom=0)
        figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=2)
        if panels[1].dataLim.width == 0:  # a single round
            panels[1].set_xlim(panels[1].dataLim.x0 - 0.5, panels[1].dataLim.x0 + 0.5)
    locator = MaxNLocator(7, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    panels[1].xaxis.set_major_locator(locator if handles else NullLocator())
    panels[1].set_xlabel(f"round (0: zero-shot{_of_fewer(table)})")


def _of_fewer(table: pd.DataFrame) -> str:
    """Say that points between the first and the last are of a part of the images, if they are."""
    if "num_examples" not in table.columns:
        return ""
    central = table[table["source"].isin(central_sources(table["source"]))]
    images = central.groupby("source")["num_examples"]
    share = (central["num_examples"] / images.transform("max")).min()
    return f"; between the first and the last: {share:.2g} of the images" if share < 1 else ""


def _looks(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return how each source is drawn, central parts first."""
    sources = [*table["source"]] if "source" in table.columns else []
    own = own_sources(sources)
    parts = [*central_sources(sources), *own]
    named = {
        source: {
            "color": color,
            "marker": marker,
            "label": f"nodes' own {part_of(source)}".strip() if source in own else part_of(source),
        }
        for source, color, marker in zip(
            (source for source in parts if source != SERVER_TEST),
            itertools.cycle(_COLORS),
            itertools.cycle(_SHAPES),
            strict=False,
        )
    }
    return {**named, **_LINES}


def _line(
    axes: Axes, table: pd.DataFrame, metric: str, source: str, looks: dict[str, dict[str, Any]]
) -> Any:
    """Draw one source, with its band; return the line, or None without a single value."""
    values = _values(table, metric, source)
    if not values.notna().any():
        return None
    look = looks[source]
    every = math.ceil(len(values) / _MARKERS)
    (line,) = axes.plot(values.index, values, markersize=3, markevery=every, **look)
    if source in _BANDS:
        spread = _values(table, metric, _BANDS[source]).reindex(values.index)
        low, high = (values - spread).clip(0, 1), (values + spread).clip(0, 1)
        axes.fill_between(values.index, low, high, color=look["color"], alpha=0.18, linewidth=0)
    return line


def _values(table: pd.DataFrame, metric: str, source: str) -> pd.Series[float]:
    """Return the values of one source by round, the last where a round stands twice."""
    if not {"round", "source", metric} <= set(table.columns):
        return pd.Series(dtype=float)
    rows = table[table["source"] == source].drop_duplicates("round", keep="last")
    values = pd.to_numeric(rows.set_index("round")[metric], errors="coerce")
    return values.astype(float).sort_index()
