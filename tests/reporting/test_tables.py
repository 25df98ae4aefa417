"""Tables of figures: what people read, and the CSV that programs read."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from fl2ora.reporting.events import JsonLines
from fl2ora.reporting.tables import CSV_FILE, metrics_table, show, shown_rows, write_csv


def _run(folder: Path) -> None:
    tracker = JsonLines(folder)
    full = {"accuracy": 0.5, "ece": 0.25, "mce": 1.0, "nll": 2.0}
    tracker.metrics(0, "server-test", full)
    tracker.metrics(0, "clients-test", {**full, "accuracy": 0.125})
    tracker.metrics(10, "server-test", {**full, "accuracy": 0.75, "nll": math.nan})
    tracker.metrics(2, "server-test", {**full, "accuracy": 0.625, "brier": 0.3})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.12345, "12.35 %"),
        ("accuracy", 1.0, "100.00 %"),
        ("ece", 0.0, "0.00 %"),
        ("mce", 0.005, "0.50 %"),
        ("confidence", 0.5, "50.00 %"),
        ("nll", 0.12345678, "0.1235"),
        ("nll", 12.0, "12.0000"),
        ("brier", 0.25, "0.2500"),
        ("accuracy", math.nan, "-"),
        ("nll", math.nan, "-"),
    ],
)
def test_figures_as_people_read_them(name: str, value: float, text: str) -> None:
    assert show(name, value) == text


def test_rows_of_a_source_come_by_round(tmp_path: Path) -> None:
    _run(tmp_path)
    assert shown_rows(metrics_table(tmp_path), "server-test") == [
        ["zero-shot", "50.00 %", "25.00 %", "100.00 %", "2.0000"],
        ["2", "62.50 %", "25.00 %", "100.00 %", "2.0000"],
        ["10", "75.00 %", "25.00 %", "100.00 %", "-"],
    ]
    assert shown_rows(metrics_table(tmp_path), "no-such-source") == []


def test_a_run_without_figures_has_an_empty_table(tmp_path: Path) -> None:
    table = metrics_table(tmp_path)
    assert len(table) == 0
    assert shown_rows(table, "server-test") == []


def test_figures_that_are_missing_everywhere_are_shown_as_a_dash(tmp_path: Path) -> None:
    """A column of nulls alone is no column of numbers to pandas."""
    tracker = JsonLines(tmp_path)
    nothing = dict.fromkeys(("accuracy", "ece", "mce", "nll"), math.nan)
    tracker.metrics(0, "server-test", nothing)
    assert shown_rows(metrics_table(tmp_path), "server-test") == [["zero-shot", "-", "-", "-", "-"]]


def test_the_csv_holds_everything_as_it_was(tmp_path: Path) -> None:
    _run(tmp_path)
    path = write_csv(tmp_path)
    assert path == tmp_path / CSV_FILE
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["round", "source", "accuracy", "ece", "mce", "nll", "brier"]
    assert [(row["round"], row["source"], row["accuracy"]) for row in rows] == [
        ("0", "server-test", "0.5"),
        ("0", "clients-test", "0.125"),
        ("10", "server-test", "0.75"),
        ("2", "server-test", "0.625"),
    ]
    assert [row["nll"] for row in rows] == ["2.0", "2.0", "", "2.0"]
    assert [row["brier"] for row in rows] == ["", "", "", "0.3"]
