"""Plots of the data: what stands in them, for many and few clients, and for none."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fl2ora.reporting import plot_fonts
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


def test_characters_that_no_font_has_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fl2ora.reporting.plot_style.families", lambda: ["DejaVu Sans"])
    image = np.zeros((1, 4, 4), np.uint8)
    contact_sheet([image] * 3, ["犬", "猫 犬", "owl"], tmp_path / "images")
    holdings_figure(COUNTS, ("犬", "dog", "owl"), tmp_path / "clients")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2  # one for each plot
    assert said[0].startswith("Plots: no font here has 犬猫: drawn as boxes")
    assert said[1].startswith("Plots: no font here has 犬: drawn as boxes")


def test_another_installed_font_draws_what_the_first_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A character of the private area, which only this font of matplotlib's has."""
    monkeypatch.setattr(plot_fonts, "_OTHERS", ("No Such Font", "STIXNonUnicode"))
    families = plot_fonts.families.__wrapped__()
    assert families == ["DejaVu Sans", "STIXNonUnicode"]
    monkeypatch.setattr("fl2ora.reporting.plot_style.families", lambda: families)
    contact_sheet([np.zeros((1, 4, 4), np.uint8)], ["a \ue001"], tmp_path / "images")
    assert not caplog.records


def test_other_warnings_of_a_plot_are_not_lost() -> None:
    with pytest.warns(UserWarning, match="something else"), plot_fonts.missing_said_once():
        warnings.warn("something else", stacklevel=1)
