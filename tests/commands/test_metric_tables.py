"""Tables of metrics on a terminal of 80 characters."""

from __future__ import annotations

import io

from rich.console import Console

from fl2ora.calibration.metrics.table import METRICS
from fl2ora.commands.metric_tables import print_metrics


def test_no_cell_and_no_word_of_a_heading_is_cut() -> None:
    text = io.StringIO()
    titles = [metric.title for metric in METRICS if metric.shown]
    special = {"ECE": "14.65 % [10.66, 16.73]", "MCE (images)": "31.40 % (12)"}
    values = [special.get(title, "31.40 %") for title in titles]
    console = Console(file=text, width=80)
    print_metrics(console, "A title", ["round", *titles], [["zero-shot", *values]] * 2)
    found = text.getvalue()
    assert "…" not in found
    for word in " ".join(titles).split():
        assert word in found
    assert found.count("A title") == 1
    assert found.count("round") == found.count("zero-shot") / 2 > 2


def test_rows_without_metrics_are_still_named() -> None:
    text = io.StringIO()
    print_metrics(Console(file=text, width=80), "A title", ["round"], [["1"]])
    assert "round" in text.getvalue()
