"""Tables of metrics: what people read, and the CSV that programs read."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from fl2ora.calibration import METRICS, CalibrationStats, StatsSpec
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.events import JsonLines
from fl2ora.reporting.tables import (
    CSV_FILE,
    metrics_table,
    show,
    shown_metrics,
    shown_rows,
    write_classwise,
    write_csv,
)


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
def test_format_of_metric_values(name: str, value: float, text: str) -> None:
    (metric,) = [metric for metric in METRICS if metric.name == name]
    assert show(metric, value) == text


def test_rows_of_a_source_come_by_round(tmp_path: Path) -> None:
    _run(tmp_path)
    assert shown_rows(metrics_table(tmp_path), "server-test") == [
        ["zero-shot", "50.00 %", "25.00 %", "100.00 %", "2.0000"],
        ["2", "62.50 %", "25.00 %", "100.00 %", "2.0000"],
        ["10", "75.00 %", "25.00 %", "100.00 %", "-"],
    ]
    assert shown_rows(metrics_table(tmp_path), "no-such-source") == []


def test_a_round_measured_with_fewer_images_says_so(tmp_path: Path) -> None:
    tracker = JsonLines(tmp_path)
    for number, images in ((0, 1500.0), (1, 1200.0), (2, 1500.0)):
        tracker.metrics(number, "server-test", {"accuracy": 0.5, "num_examples": images})
    names = [row[0] for row in shown_rows(metrics_table(tmp_path), "server-test")]
    assert names == ["zero-shot", "1 (1,200 images)", "2"]


def test_of_a_round_measured_again_the_last_rows_count(tmp_path: Path) -> None:
    log = JsonLines(tmp_path)
    for images, nll in ((6, 0.5), (60, 1.5)):
        log.metrics(3, "server-test", {"num_examples": images, "nll": nll})
    table = metrics_table(tmp_path)
    assert table[["round", "num_examples", "nll"]].to_numpy().tolist() == [[3, 60, 1.5]]


def test_a_run_without_metrics_has_an_empty_table(tmp_path: Path) -> None:
    table = metrics_table(tmp_path)
    assert len(table) == 0
    assert shown_rows(table, "server-test") == []


def test_metrics_that_are_missing_everywhere_are_shown_as_a_dash(tmp_path: Path) -> None:
    """A column of nulls alone is no column of numbers to pandas."""
    tracker = JsonLines(tmp_path)
    nothing = dict.fromkeys(("accuracy", "ece", "mce", "nll"), math.nan)
    tracker.metrics(0, "server-test", nothing)
    assert shown_rows(metrics_table(tmp_path), "server-test") == [["zero-shot", "-", "-", "-", "-"]]


def test_csv_keeps_full_precision(tmp_path: Path) -> None:
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


def test_mce_is_printed_with_its_bin_count(tmp_path: Path) -> None:
    tracker = JsonLines(tmp_path)
    tracker.metrics(1, "server-test", {"mce": 0.314, "mce_count": 2.0, "mce_low": 0.1})
    tracker.metrics(1, "clients-test", {"mce": 0.1, "mce_count": 12345.0})
    tracker.metrics(1, "clients-test-mean", {"mce": 0.5, "mce_count": 2.5})
    table = metrics_table(tmp_path)
    assert shown_rows(table, "server-test") == [["1", "31.40 % (2)"]]
    assert shown_rows(table, "clients-test") == [["1", "10.00 % (12,345)"]]
    assert shown_rows(table, "clients-test-mean") == [["1", "50.00 % (2.5)"]]


def test_a_metric_that_was_asked_for_is_a_column_and_ece_has_its_interval(tmp_path: Path) -> None:
    tracker = JsonLines(tmp_path)
    values = {"aurc": 0.25, "ece": 0.1, "ece_low": 0.05, "ece_high": 0.125, "ace": 0.1}
    tracker.metrics(0, "server-test", values)
    table = metrics_table(tmp_path)
    assert [metric.name for metric in shown_metrics(table)] == ["ece", "aurc"]
    row = ["zero-shot", "10.00 % [5.00, 12.50]", "0.2500"]
    assert shown_rows(table, "server-test") == [row]


def test_every_class_is_a_row_of_a_table_of_its_own(tmp_path: Path) -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])
    spec = StatsSpec(num_bins=5, num_classes=3, classwise=True)
    stats = CalibrationStats.from_probabilities(p, np.array([0, 1, 1, 2]), spec)
    path = write_classwise(
        tmp_path, {"server-test": ("cat", "dog", "eel")}, {(4, "server-test"): stats}
    )
    assert path == tmp_path / "classwise.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    head = ["round", "source", "class", "name", "examples", "predicted"]
    assert list(rows[0]) == [*head, "classwise_ece", "top_label_ece"]
    assert [[row[name] for name in head] for row in rows] == [
        ["4", "server-test", "0", "cat", "1", "2"],
        ["4", "server-test", "1", "dog", "2", "1"],
        ["4", "server-test", "2", "eel", "1", "1"],
    ]
    found = [float(row["classwise_ece"]) for row in rows]
    assert found == pytest.approx([0.3, 0.275, 0.225])
    assert [float(row["top_label_ece"]) for row in rows] == pytest.approx([0.45, 0.5, 0.4])


def test_without_sums_by_class_there_is_no_such_table(tmp_path: Path) -> None:
    nothing = {(0, "server-test"): CalibrationStats.zero()}
    assert write_classwise(tmp_path, {"server-test": ("cat", "dog")}, nothing) is None
    assert not list(tmp_path.iterdir())


GOOD = '{"round": 0, "source": "server-test", "accuracy": 0.5}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + GOOD[:20], "line 2 is damaged"),
        (GOOD + GOOD.rstrip(), "line 2 is damaged"),
        ("[1]\n" + GOOD, "line 1 is damaged"),
        (GOOD.replace("0.5", "'x'".replace("'", '"')), "line 1: .accuracy.: expected .* found 'x'"),
        (GOOD.replace("0.5", "[]"), r"line 1: .accuracy.: expected .* found \[\]"),
        (GOOD.replace("0.5", "9" * 400), "line 1: .accuracy.: expected a finite number or null"),
        (GOOD.replace("0.5", "Infinity"), "line 1: .accuracy.: expected .* found inf"),
        (GOOD.replace(": 0,", ": null,"), "line 1: .round.: expected .* found None"),
        (GOOD.replace(": 0,", ": 1.5,"), "line 1: .round.: expected .* found 1.5"),
        (GOOD.replace(": 0,", ": 1e308,"), "line 1: .round.: expected .* found 1e.308"),
        (GOOD.replace('"server-test"', "3"), "line 1: .source.: expected .* found 3"),
        (GOOD + '{"accuracy": 1}\n', "line 2: expected a round and a source"),
    ],
)
def test_a_damaged_record_is_no_table(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=rf"metrics\.jsonl: {message}"):
        metrics_table(tmp_path)
