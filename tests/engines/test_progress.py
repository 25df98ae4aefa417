"""The rounds on the terminal, from a run's events."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from fl2ora.engines.progress import RoundsView
from fl2ora.reporting.events import JsonLines


def _shown(folder: Path, values: dict[str, float]) -> str:
    tracker = JsonLines(folder)
    tracker.metrics(0, "server-test", values)
    tracker.log("round-end", loss=0.5, duration=1.25)
    tracker.metrics(1, "server-test", values)
    tracker.metrics(1, "clients-test", {"accuracy": 0.111})
    text = io.StringIO()
    with RoundsView(folder, Console(file=text, width=100), 2):
        pass
    return text.getvalue()


def test_a_line_for_each_round_has_accuracy_and_ece(tmp_path: Path) -> None:
    text = _shown(tmp_path, {"ece": 0.03, "accuracy": 0.5, "nll": 1.0, "mce": 0.9})
    assert "   zero-shot  accuracy  50.00 %  ECE   3.00 %" in text
    assert "   round 1/2  accuracy  50.00 %  ECE   3.00 %  loss 0.5000  1.2 s" in text
    assert "11.10" not in text
    assert "90.00" not in text


@pytest.mark.parametrize(
    ("values", "line"),
    [({"accuracy": math.nan, "ece": 0.5}, "accuracy        -  ECE  50.00 %"), ({"nll": 1.0}, "")],
)
def test_missing_and_nan_metrics_in_the_progress_line(
    tmp_path: Path, values: dict[str, float], line: str
) -> None:
    assert f"round 1/2  {line}" in _shown(tmp_path, values)
