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


def test_the_calibrated_metrics_have_a_line(tmp_path: Path) -> None:
    JsonLines(tmp_path).metrics(2, "server-test-calibrated", {"accuracy": 0.5, "ece": 0.25})
    text = _shown(tmp_path, {})
    assert "  calibrated  accuracy  50.00 %  ECE  25.00 %" in text


@pytest.mark.parametrize(
    "lines",
    [
        "", "{}\n", '{"event": "drop"}\n', '{"event": "round-start", "clients": 3}\n',
        '{"event": "metrics", "source": "server-test"}\n', '{"event": "nodes", "nodes": 3}\n',
        '{"event": "round-end", "loss": "x"}\n', '{"event": ["client"]}\n', '{"event": "rou',
        '{"event": "metrics", "source": "server-test", "round": 1, "ece": "high"}\n', "null\n",
    ],
)  # fmt: skip
def test_a_damaged_record_stops_nothing(tmp_path: Path, lines: str) -> None:
    (tmp_path / "events.jsonl").write_text(lines)
    text = io.StringIO()
    with RoundsView(tmp_path, Console(file=text, width=100), 2) as view:
        view.update()
    assert not view.ended


def test_texts_of_others_steer_no_terminal_and_are_no_markup(tmp_path: Path) -> None:
    tracker = JsonLines(tmp_path)
    tracker.log("drop", round=1, client="[red]a[/]", reason="\x1b[2J\x07[/x]")
    tracker.log("failed", message="\x1b[2Jgone")
    text = io.StringIO()
    with RoundsView(tmp_path, Console(file=text, width=100, force_terminal=False), 2) as view:
        view.update()
    assert "client [red]a[/] not used:  [2J [/x]" in text.getvalue()
    assert "\x1b[2J" not in text.getvalue()
    assert view.failure == " [2Jgone"


def test_long_lines_are_not_broken(tmp_path: Path) -> None:
    reason = "word " * 60
    JsonLines(tmp_path).log("drop", round=1, client="a", reason=reason.strip())
    text = io.StringIO()
    with RoundsView(tmp_path, Console(file=text, width=80), 2):
        pass
    assert reason.strip() in text.getvalue()
