"""The record of a run as it happens: JSON lines, one object an event."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fl2ora.experiment.errors import UserError
from fl2ora.reporting.whole_files import naming, plain_file

METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"


class Tracker(Protocol):
    """Something that wants to know what happens in a run."""

    def log(self, event: str, /, **fields: Any) -> None:
        """Take note of one event."""

    def metrics(self, server_round: int, source: str, values: Mapping[str, float]) -> None:
        """Take note of the metrics of one source after one round (0 is zero-shot)."""


@dataclass(frozen=True)
class Place:
    """How far a record has come.

    Attributes:
        metrics: bytes of ``metrics.jsonl``.
        digest: SHA-256 of them.
        events: bytes of ``events.jsonl``.
    """

    metrics: int = 0
    digest: str = hashlib.sha256().hexdigest()
    events: int = 0


class JsonLines:
    """Writes every event to ``events.jsonl`` and every metric to ``metrics.jsonl`` at once.

    Args:
        folder: existing run directory; what its files hold already stays.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start = time.monotonic()
        self._sizes = {EVENTS_FILE: 0, METRICS_FILE: 0}
        self._digest = hashlib.sha256()
        for name in self._sizes:
            path = folder / name
            if path.exists():
                self._count(name, path.read_bytes())

    def place(self) -> Place:
        """Return how far the record has come."""
        sizes = self._sizes
        return Place(sizes[METRICS_FILE], self._digest.hexdigest(), sizes[EVENTS_FILE])

    def log(self, event: str, /, **fields: Any) -> None:
        """Append one object with ``event`` and ``seconds`` since the start."""
        seconds = round(time.monotonic() - self._start, 3)
        self._append(EVENTS_FILE, {"event": event, "seconds": seconds, **fields})

    def metrics(self, server_round: int, source: str, values: Mapping[str, float]) -> None:
        """Append one object with ``round``, ``source`` and the metrics by name."""
        row = {"round": server_round, "source": source, **values}
        self._append(METRICS_FILE, row)
        self.log("metrics", **row)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        line = (json.dumps(_json_safe(row)) + "\n").encode()
        path = self._folder / name
        with naming(path), path.open("ab") as file:
            file.write(line)
        self._count(name, line)

    def _count(self, name: str, written: bytes) -> None:
        self._sizes[name] += len(written)
        if name == METRICS_FILE:
            self._digest.update(written)


class NewLines:
    """Reads a growing JSON-lines file, each line once.

    Args:
        path: the file; it may not exist yet, and a last line still being written waits.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0  # bytes

    def read(self) -> list[dict[str, Any]]:
        """Return the objects on the lines that are new since the last call.

        What is no JSON object is left out: a full disk may have cut a line short.
        """
        try:
            with plain_file(self._path).open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return []
        complete = new[: new.rfind(b"\n") + 1]
        self._read += len(complete)
        return [row for line in complete.splitlines() if (row := _object(line)) is not None]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a last line still being written is left out, and so is what is none.

    See ``NewLines``.
    """
    return NewLines(path).read()


def read_whole_lines(path: Path) -> list[dict[str, Any]]:
    """Read the JSON-lines file of a run that has ended: no line of it may be missing.

    Raises:
        UserError: a line is no JSON object, or the last one was cut short.
        OSError: the file cannot be read.
    """
    rows = []
    content = plain_file(path).read_bytes() if path.exists() else b""
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        row = _object(line) if line.endswith(b"\n") else None
        if row is None:
            raise UserError(f"{path}: line {number} is damaged: expected one JSON object")
        rows.append(row)
    return rows


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _json_safe(value: Any) -> Any:
    """JSON has no NaN and no infinity: write null."""
    if isinstance(value, Mapping):
        return {key: _json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
