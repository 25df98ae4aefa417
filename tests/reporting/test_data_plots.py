"""Plots of the data: what stands in them, for many and few clients, and for none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fl2ora.reporting.data_plots import _draw_holdings, contact_sheet, holdings_figure
from fl2ora.reporting.plot_style import new_figure

COLUMNS = ["client", "part", "label", "class", "domain", "images"]
COUNTS = pd.DataFrame(
    [
        ["a", "train", 0, "cat", "all", 5],
        ["a", "test", 2, "owl", "all", 2],
        ["b", "train", 2, "owl", "all", 7],
        ["b", "calibration", 2, "owl", "all", 1],
    ],
    columns=COLUMNS,
)
NAMES = ("cat", "dog", "owl")


def test_the_map_and_the_bars_hold_the_counts() -> None:
    with new_figure(3, 3) as figure:
        _draw_holdings(figure, COUNTS, ["a", "b"], NAMES)
        bars, grid = figure.axes[:2]
        found = grid.images[0].get_array()
        heights = [[bar.get_height() for bar in group] for group in bars.containers]
        ticks = [label.get_text() for label in grid.get_yticklabels()]
    np.testing.assert_array_equal(found.filled(0), [[5, 0], [0, 0], [2, 8]])
    assert heights == [[5, 7], [2, 0], [0, 1]]  # train, test, calibration
    assert ticks == list(NAMES)


@pytest.mark.parametrize("clients", [0, 1, 13, 200])
def test_any_number_of_clients_can_be_drawn(tmp_path: Path, clients: int) -> None:
    rows = [[str(index), "train", 0, "cat", "all", index + 1] for index in range(clients)]
    paths = holdings_figure(pd.DataFrame(rows, columns=COLUMNS), NAMES, tmp_path / "clients")
    assert [path.suffix for path in paths] == [".png", ".svg"]
    assert all(path.stat().st_size > 1500 for path in paths)


def test_a_contact_sheet_holds_each_picture_with_its_caption(tmp_path: Path) -> None:
    grey, colour = np.full((1, 4, 6), 9, np.uint8), np.zeros((3, 8, 8), np.uint8)
    captions = ["a photo of a $cat$.", "word " * 50]
    png, svg = contact_sheet([grey, colour], captions, tmp_path / "images")
    assert png.stat().st_size > 1500
    assert svg.read_text().count("<image") == 2
    assert contact_sheet([], [], tmp_path / "none")[0].exists()
