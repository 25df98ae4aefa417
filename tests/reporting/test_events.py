"""The record of a run: lines of JSON that anyone can read, also while the run goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fl2ora.reporting.events import EVENTS_FILE, METRICS_FILE, JsonLines, NewLines, read_lines


def _strict(path: Path) -> list[dict[str, Any]]:
    """Read with a parser that refuses NaN and Infinity, which JSON does not have."""

    def refuse(constant: str) -> float:
        raise ValueError(constant)

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_every_event_is_one_line_with_its_time(tmp_path: Path) -> None:
    tracker = JsonLines(tmp_path)
    tracker.log("start", config={"seed": 0})
    tracker.log("drop", round=1, client="a", reason="two\nlines – “quoted”")
    rows = _strict(tmp_path / EVENTS_FILE)
    assert [row["event"] for row in rows] == ["start", "drop"]
    assert rows[0]["config"] == {"seed": 0}
    assert rows[1]["reason"] == "two\nlines – “quoted”"
    assert 0 <= rows[0]["seconds"] <= rows[1]["seconds"] < 60
    assert not (tmp_path / METRICS_FILE).exists()
    assert read_lines(tmp_path / EVENTS_FILE) == rows


def test_metrics_are_events_too(tmp_path: Path) -> None:
    JsonLines(tmp_path).metrics(3, "server-test", {"accuracy": 0.5, "ece": 0.25})
    row = {"round": 3, "source": "server-test", "accuracy": 0.5, "ece": 0.25}
    assert read_lines(tmp_path / METRICS_FILE) == [row]
    (event,) = read_lines(tmp_path / EVENTS_FILE)
    assert event.pop("seconds") >= 0
    assert event == {"event": "metrics", **row}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_null(tmp_path: Path, value: float) -> None:
    tracker = JsonLines(tmp_path)
    tracker.metrics(0, "x", {"nll": value, "ece": 0.0})
    tracker.log("deep", rows=[{"a": value}, (1.0, value)], also={"b": {"c": value}})
    assert _strict(tmp_path / METRICS_FILE) == [
        {"round": 0, "source": "x", "nll": None, "ece": 0.0}
    ]
    deep = _strict(tmp_path / EVENTS_FILE)[-1]
    assert deep["rows"] == [{"a": None}, [1.0, None]]
    assert deep["also"] == {"b": {"c": None}}


def test_floats_keep_every_digit(tmp_path: Path) -> None:
    values = {"a": 0.1 + 0.2, "b": 1e-300, "c": 2 / 3}
    JsonLines(tmp_path).metrics(0, "x", values)
    (row,) = read_lines(tmp_path / METRICS_FILE)
    assert {name: row[name] for name in values} == values


def test_lines_are_appended(tmp_path: Path) -> None:
    JsonLines(tmp_path).log("one")
    JsonLines(tmp_path).log("two")
    assert [row["event"] for row in read_lines(tmp_path / EVENTS_FILE)] == ["one", "two"]


@pytest.mark.parametrize("rest", ["", "{", '{"event": "half', '{"event": "whole but no newline"}'])
def test_a_last_line_still_being_written_is_left_out(tmp_path: Path, rest: str) -> None:
    path = tmp_path / EVENTS_FILE
    path.write_text('{"event": "one"}\n{"event": "two"}\n' + rest)
    assert [row["event"] for row in read_lines(path)] == ["one", "two"]


def test_no_file_and_an_empty_file_have_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "none.jsonl") == []
    (tmp_path / "empty.jsonl").touch()
    assert read_lines(tmp_path / "empty.jsonl") == []


def test_a_follower_reads_each_byte_once(tmp_path: Path) -> None:
    path = tmp_path / EVENTS_FILE
    follower = NewLines(path)
    assert follower.read() == []
    path.write_text('{"event": "one"}\n{"event": "tw')
    assert follower.read() == [{"event": "one"}]
    assert follower.read() == []
    with path.open("a", encoding="utf-8") as file:
        file.write('ö"}\n{"event": "three"}\n')
    assert follower.read() == [{"event": "twö"}, {"event": "three"}]
    # What was read is not looked at again: even other bytes there change nothing.
    path.write_text("x" * path.stat().st_size + '{"event": "four"}\n')
    assert follower.read() == [{"event": "four"}]


@pytest.mark.parametrize("line", ["", "null", "[]", "3", '{"event": ', "\x00\x00", "[" * 100_000])
def test_a_damaged_line_is_left_out(tmp_path: Path, line: str) -> None:
    path = tmp_path / EVENTS_FILE
    path.write_text(f'{{"event": "one"}}\n{line}\n{{"event": "two"}}\n')
    assert [row["event"] for row in read_lines(path)] == ["one", "two"]


def test_bytes_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    (tmp_path / EVENTS_FILE).write_bytes(b'\xff\xfe\n{"event": "two"}\n')
    assert [row["event"] for row in read_lines(tmp_path / EVENTS_FILE)] == ["two"]
