"""The record of a run that goes on after an interruption: what counts of it, and what does not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl2ora.reporting.events import EVENTS_FILE, METRICS_FILE, Place, read_lines
from fl2ora.reporting.whole_files import whole_file

RESUMED = "resumed"
Row = dict[str, float | str]


def rows_before(folder: Path, place: Place) -> tuple[Row, ...] | None:
    """Return the rows of ``metrics.jsonl`` up to a place; None if they are no longer those.

    What JSON holds as null was no finite number, and is NaN.
    """
    content = _head(folder / METRICS_FILE, place.metrics)
    if hashlib.sha256(content).hexdigest() != place.digest:
        return None
    return tuple(_row(json.loads(line)) for line in content.splitlines())


def rewind(folder: Path, place: Place) -> None:
    """Take the rows after a place out of ``metrics.jsonl``; end a last line that was cut short.

    ``events.jsonl`` keeps all lines: what happened in rounds that were lost has happened.
    """
    content = _head(folder / METRICS_FILE, place.metrics)
    with whole_file(folder / METRICS_FILE) as part:
        part.write_bytes(content)
    events = folder / EVENTS_FILE
    if events.exists() and events.stat().st_size and events.read_bytes()[-1:] != b"\n":
        with events.open("ab") as file:
            file.write(b"\n")


def begun_after(folder: Path, place: Place) -> list[tuple[str, ...]]:
    """Return the clients of every round that was begun after a place, in their order."""
    path = folder / EVENTS_FILE
    lines = path.read_bytes()[place.events :].splitlines() if path.exists() else []
    found = []
    for line in lines:
        if b'"round-start"' in line:
            event = _loaded(line)
            clients = event.get("clients")
            if event.get("event") == "round-start" and isinstance(clients, list):
                found.append(tuple(map(str, clients)))
    return found


def lasting_events(folder: Path) -> list[dict[str, Any]]:
    """Return a run's events without those of rounds that an interruption undid.

    What belongs to no round is said anew when a run goes on, and then stands for what was said
    before.
    """
    kept: list[dict[str, Any]] = []
    for event in read_lines(folder / EVENTS_FILE):
        if event.get("event") == RESUMED:
            last = event.get("round", 0)
            kept = [e for e in kept if e["event"] == RESUMED or _is_of(e, last)]
        if "event" in event:
            kept.append(event)
    return kept


def _is_of(event: Mapping[str, Any], last: int) -> bool:
    number = event.get("round")
    return isinstance(number, int) and number <= last


def _head(path: Path, size: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        return file.read(min(size, path.stat().st_size))  # a size may be damaged


def _loaded(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _row(found: Mapping[str, Any]) -> Row:
    return {name: float("nan") if value is None else value for name, value in found.items()}
