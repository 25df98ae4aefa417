"""How every plot looks, and how it is written: column width, colour-blind safe, reproducible.

Figures are made with matplotlib's objects on an Agg canvas. ``pyplot`` keeps figures in a global
list and may open a window, so it is never imported.

Colours: Okabe & Ito, "Color universal design" (2008). No meaning rests on colour alone: hatches,
markers and line styles say the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fl2ora.reporting.plot_fonts import families, missing_said_once

COLUMN = 8.5 / 2.54  # inches: one column of a paper
PAGE = 17.5 / 2.54  # inches: both columns
NOTHING = (COLUMN, 1.2)  # inches: a figure that only says "no data"
SMALL = 6.5  # points
_LETTER = 0.066  # inches, of a bold letter of 7.5 points

BLACK, GREY, LIGHT = "#000000", "#6E6E6E", "#BDBDBD"
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"

_STYLE = {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "hatch.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "text.parse_math": False,  # a "$" in a client's name is a dollar sign
    "svg.hashsalt": "fl2ora",  # equal runs, equal bytes
}
_METADATA: dict[str, dict[str, str | None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Any]:
    """Yield an empty figure of that many inches; draw and save it inside the ``with`` block."""
    with style.context(["default", _STYLE, {"font.family": families()}]):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write the figure as PNG (200 dpi) and SVG; equal figures give equal bytes.

    Args:
        figure: drawn inside ``new_figure``.
        path: without suffix, or with one of the two, which is replaced; its folder must exist.

    Returns:
        The PNG's path and the SVG's.
    """
    stem = path.with_suffix("") if path.suffix in _METADATA else path
    paths = [stem.with_name(stem.name + suffix) for suffix in _METADATA]
    with missing_said_once():
        for target in paths:
            figure.savefig(target, dpi=200, metadata=_METADATA[target.suffix])
    return paths


def no_data(axes: Axes, text: str = "no data") -> None:
    """Say in the middle of the axes that there is nothing to show."""
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center",
        color=GREY, fontsize=8, backgroundcolor="white", zorder=4,
    )  # fmt: skip


def empty(figure: Figure) -> None:
    """Say on an empty figure that there is nothing to show."""
    axes = figure.subplots()
    axes.set_axis_off()
    no_data(axes)


def percent(value: float) -> str:
    """Return a fraction as people read it, with the sign; ``-`` for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def fitted(name: str, width: float, lines: int = 1) -> str:
    """Return the name as a bold heading of that many inches, cut off with an ellipsis."""
    length = max(4, int(width / _LETTER))
    rest = " ".join(name.split())
    found: list[str] = []
    while len(rest) > length and len(found) < lines - 1:
        cut = rest.rfind(" ", 0, length + 1)
        cut = cut if cut > 0 else length
        found.append(rest[:cut])
        rest = rest[cut:].lstrip()
    found.append(rest if len(rest) <= length else rest[: length - 1].rstrip() + "…")
    return "\n".join(found)
