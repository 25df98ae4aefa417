"""Small multiples: one reliability diagram for each client."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl2ora.calibration.metrics.binned import ece_of
from fl2ora.calibration.reliability import reliability_bins
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.reporting.plot_style import (
    BLACK,
    COLUMN,
    LIGHT,
    NOTHING,
    PAGE,
    empty,
    fitted,
    percent,
)
from fl2ora.reporting.reliability_axes import FEW, draw_bins, draw_head, keys_of_bins

CLIENTS_SHOWN = 20
_STRIP = 0.24  # of the height of a diagram: the counts below it


def clients_size(shown: int) -> tuple[float, float]:
    """Return width and height in inches for that many clients."""
    if shown == 0:
        return NOTHING
    columns, rows, width = _grid(shown)
    return width, rows * (width / columns + 0.3) + 1.1


@dataclass(frozen=True)
class Worst:
    """The clients with the largest ECE, the first one worst.

    Attributes:
        shown: their names and sums.
        measured: how many clients have examples.
        clients: how many there are.
    """

    shown: Sequence[tuple[str, CalibrationStats]]
    measured: int
    clients: int


def worst_of(clients: Mapping[str, CalibrationStats], limit: int) -> Worst:
    """Look at all clients, one at a time, and return at most ``limit`` of those with examples."""
    measured = 0

    def filled() -> Iterator[tuple[str, CalibrationStats]]:
        nonlocal measured
        for name, stats in clients.items():
            if stats.num_examples:
                measured += 1
                yield name, stats

    shown = heapq.nsmallest(limit, filled(), key=lambda item: (-ece_of(item[1]), item[0]))
    return Worst(shown, measured, len(clients))


def draw_clients(figure: Figure, worst: Worst) -> None:
    """Draw the panels of ``fl2ora.reporting.plots.clients_figure`` on an empty figure."""
    shown = worst.shown
    figure.suptitle(_title(len(shown), worst.measured, worst.clients), fontsize=7.5)
    if not shown:
        empty(figure)
        return
    columns, rows, width = _grid(len(shown))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for panel in axes.flat[len(shown) :]:
        panel.set_axis_off()
    for index, (name, stats) in enumerate(shown):
        panel = axes.flat[index]
        values = f"ECE {percent(ece_of(stats))}, N {stats.num_examples:,}"
        draw_head(panel, fitted(_shown(name), width / columns - 0.3), values)
        draw_bins(panel, stats, faded=True)
        _draw_strip(panel, stats)
        lowest, first = index + columns >= len(shown), index % columns == 0
        panel.tick_params(labelbottom=lowest, labelleft=first)
        panel.set_xlabel("confidence (%)" if lowest else "")
        panel.set_ylabel("accuracy (%)" if first else "")
    figure.legend(handles=keys_of_bins(), loc="outside lower center", ncols=2 if columns < 3 else 5)


def _grid(shown: int) -> tuple[int, int, float]:
    """Return columns, rows and width in inches."""
    width, most = (COLUMN, 2) if shown <= 2 else (PAGE, 5)
    rows = math.ceil(shown / most)
    return math.ceil(shown / rows), rows, width


def _title(shown: int, measured: int, clients: int) -> str:
    which = f"{shown} of {measured}" if shown < measured else f"{measured}"
    order = ", worst ECE first" if measured > 1 else ""
    none = f"; {clients - measured} more without examples" if clients > measured else ""
    pale = f"\npale: fewer than {FEW} examples in the bin" if measured else ""
    return f"{which} client{'s' * (measured != 1)}{order}{none}{pale}"


def _shown(client: str) -> str:
    """Return a client's key as people read it: a number alone is none."""
    return f"client {client}" if client.isdecimal() else client


def _draw_strip(axes: Axes, stats: CalibrationStats) -> None:
    """Draw the counts below the diagram, scaled to the fullest bin."""
    bins = reliability_bins(stats)
    height = 0.85 * _STRIP * bins.count / bins.count.max()
    axes.bar(
        bins.edges[:-1], height, float(bins.edges[1]), bottom=-_STRIP, align="edge",
        facecolor=LIGHT, edgecolor="white", linewidth=0.3,
    )  # fmt: skip
    axes.set_ylim(-_STRIP, 1)
    axes.axhline(0, color=BLACK, linewidth=0.5)
    axes.spines.left.set_bounds(0, 1)
