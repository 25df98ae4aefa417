"""Plots of the data of a run: who holds what, and what the images look like.

As in ``fl2ora.reporting.plots``: each function writes ``<path>.png`` and ``<path>.svg`` and returns
both paths.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fl2ora.reporting.plot_style import (
    BLUE,
    COLUMN,
    LIGHT,
    PAGE,
    SKY,
    empty,
    fitted,
    new_figure,
    save,
)

_NAMED = 40  # clients or classes; with more, axes show numbers instead of names
_PARTS = (("train", BLUE, ""), ("test", SKY, "////"), ("calibration", LIGHT, "...."))
# From a pale blue that differs from the white of no image.
_SHADES = LinearSegmentedColormap.from_list("images", colormaps["Blues"](np.linspace(0.2, 1, 256)))
_COLUMNS = 6  # pictures in a row of a contact sheet


def holdings_figure(counts: pd.DataFrame, class_names: Sequence[str], path: Path) -> list[Path]:
    """Draw how many images each client has: bars by part, and a map by class.

    Args:
        counts: of ``fl2ora.federated_data.holdings.count_images``.
        class_names: of the classes, in label order; those nobody holds are shown, too.
        path: of both files; a suffix ``.png`` or ``.svg`` is replaced. Its folder must exist.

    Returns:
        The paths of the PNG and the SVG.
    """
    clients = list(dict.fromkeys(counts["client"]))
    width = COLUMN if len(clients) <= 12 else PAGE
    height = 1.2 + min(5.0, max(1.2, 0.13 * len(class_names)))
    with new_figure(width, height) as figure:
        _draw_holdings(figure, counts, clients, class_names)
        return save(figure, path)


def _draw_holdings(
    figure: Figure, counts: pd.DataFrame, clients: list[str], class_names: Sequence[str]
) -> None:
    if not clients:
        empty(figure)
        return
    ratios = [1.0, max(1.2, 0.13 * min(len(class_names), _NAMED))]
    bars, grid = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
    places, bottom = np.arange(len(clients)), np.zeros(len(clients))
    for part, colour, hatch in _PARTS:
        sums = counts[counts["part"] == part].groupby("client")["images"].sum()
        heights = sums.reindex(clients, fill_value=0).to_numpy(dtype=float)
        bars.bar(
            places, heights, 0.8, bottom=bottom, label=part, facecolor=colour, hatch=hatch,
            edgecolor="white", linewidth=0,
        )  # fmt: skip
        bottom += heights
    bars.set_ylabel("images")
    bars.set_ylim(0, None)
    figure.legend(*bars.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    table = (
        counts.pivot_table(index="label", columns="client", values="images", aggfunc="sum")
        .reindex(index=range(len(class_names)), columns=clients)
        .fillna(0)
        .to_numpy(dtype=float)
    )
    shown = grid.imshow(
        np.ma.masked_equal(table, 0), aspect="auto", cmap=_SHADES, vmin=0,
        interpolation="nearest" if len(clients) <= _NAMED else "auto",
    )  # fmt: skip
    figure.colorbar(shown, ax=grid, label="images", pad=0.01)
    grid.set_xlabel("client")
    if len(clients) <= _NAMED:
        longest = max(map(len, clients))
        names = [fitted(client, 0.7) for client in clients]
        grid.set_xticks(places, names, rotation=90 if longest > 3 else 0)
    if len(class_names) <= _NAMED:
        grid.set_yticks(range(len(class_names)), [fitted(name, 1.2) for name in class_names])
    else:
        grid.set_ylabel("class (its number)")


def contact_sheet(
    images: Sequence[NDArray[np.uint8]], captions: Sequence[str], path: Path
) -> list[Path]:
    """Draw pictures side by side, each with a caption such as its prompt.

    Args:
        images: ``(C, H, W)`` uint8 each, C is 1 (grey) or 3 (RGB).
        captions: as many texts.
        path: of both files, as in ``holdings_figure``.

    Returns:
        The paths of the PNG and the SVG.
    """
    columns = min(_COLUMNS, max(1, len(images)))
    rows = math.ceil(len(images) / columns)
    with new_figure(PAGE * columns / _COLUMNS, max(1.2, 1.5 * rows)) as figure:
        if not images:
            empty(figure)
            return save(figure, path)
        axes = figure.subplots(rows, columns, squeeze=False)
        for panel in axes.flat:
            panel.set_axis_off()
        for panel, image, caption in zip(axes.flat, images, captions, strict=False):
            panel.imshow(
                image[0] if len(image) == 1 else image.transpose(1, 2, 0),
                cmap="gray",
                vmin=0,
                vmax=255,
            )
            lines = textwrap.wrap(" ".join(caption.split()), 20)
            text = "\n".join(lines[:3]) + ("…" if len(lines) > 3 else "")
            panel.set_title(text, fontsize=5.5, pad=2)
        return save(figure, path)
