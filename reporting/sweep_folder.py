"""The folder of a sweep: one folder for each cell's run, and ``sweep.json`` about all of them.

``sweep.json`` says what the sweep is and how far it got, for people and for reports. Whether a cell
is done is read from the cell's own folder, so that a sweep that was killed loses nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fl2ora.experiment.errors import UserError
from fl2ora.reporting.events import EVENTS_FILE, read_lines
from fl2ora.reporting.run_file import RUN_FILE
from fl2ora.reporting.whole_files import plain_file, write_whole

SWEEP_FILE = "sweep.json"
CELLS = "cells"
SELECTION = "selection"
DONE, FAILED, OPEN = "done", "failed", "open"

_LOCK = ".lock"
_ANYWHERE = (
    "output-dir", "run-name", "resume", "force-resume", "checkpoint-every", "cache-dir",
    "round-timeout", "start-timeout",
)  # fmt: skip
_UNFIT = re.compile(r"[^A-Za-z0-9.]+")
_LONGEST = 80  # signs of a folder's name that labels may take
_ATTEMPTS, _PAUSE = 25, 0.2  # seconds


@dataclass(frozen=True)
class CellRecord:
    """A cell as ``sweep.json`` has it.

    Attributes:
        labels: by axis.
        seed: of the run.
        folder: of the run, from the sweep's.
        state: ``done``, ``failed`` or ``open``.
        reason: why it failed, or empty.
    """

    labels: dict[str, str]
    seed: int
    folder: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class ChoiceRecord:
    """What ``select`` chose for some cells.

    Attributes:
        labels: of those cells, by axis.
        key: the run-config key.
        metric: of the validation data.
        curve: for each candidate its ``value``, the ``mean`` and ``sd`` of the metric over seeds
            and their number ``n``; where a run failed, ``mean`` is null.
        chosen: the best candidate, or None where every one failed.
        at_edge: the best is the first or last one, so a better one may lie beyond.
    """

    labels: dict[str, str]
    key: str
    metric: str
    curve: list[dict[str, Any]]
    chosen: Any
    at_edge: bool


@dataclass(frozen=True)
class SweepRecord:
    """All of ``sweep.json``.

    Attributes:
        sweep: the content of the sweep's file.
        code: identifies code and libraries.
        axes: their names.
        cells: of the sweep, without those of ``select``.
        choices: of ``select``.
    """

    sweep: Mapping[str, Any]
    code: str
    axes: list[str]
    cells: list[CellRecord]
    choices: list[ChoiceRecord]

    def save(self, folder: Path) -> None:
        """Write ``sweep.json`` in one step."""
        write_whole(folder / SWEEP_FILE, json.dumps(asdict(self), indent=1, default=str) + "\n")

    @classmethod
    def load(cls, folder: Path) -> SweepRecord:
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        path = folder / SWEEP_FILE
        try:
            found = json.loads(plain_file(path).read_text(encoding="utf-8"))
            cells = [CellRecord(**cell) for cell in found["cells"]]
            choices = [ChoiceRecord(**choice) for choice in found["choices"]]
            return cls(found["sweep"], str(found["code"]), list(found["axes"]), cells, choices)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"{path}: expected the record of a sweep: {error}") from None


def cell_key(settings: Mapping[str, Any], code: str) -> str:
    """Return 12 hex digits that identify what a cell computes.

    Args:
        settings: all keys of its run; those that say where and how long count for nothing.
        code: identifies code and libraries.
    """
    what = {key: value for key, value in settings.items() if key not in _ANYWHERE}
    text = json.dumps([what, code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cell_name(labels: Mapping[str, str], seed: int, key: str) -> str:
    """Return the name of a cell's folder.

    >>> cell_name({"method": "lora(rank=4)", "loss": "cross_entropy"}, 0, "0a1b2c")
    'lora-rank-4-cross-entropy-seed0-0a1b2c'
    """
    words = [_UNFIT.sub("-", label).strip("-.") for label in labels.values()]
    stem = "-".join(word for word in words if word)[:_LONGEST].rstrip("-.")
    return "-".join(part for part in (stem, f"seed{seed}", key) if part)


def state_of(folder: Path) -> tuple[str, str]:
    """Return whether a cell's run is done, failed or still open, and why it failed."""
    events = read_lines(folder / EVENTS_FILE)
    last = events[-1] if events else {}
    if last.get("event") == "finished" and (folder / RUN_FILE).exists():
        return DONE, ""
    if last.get("event") == "failed":
        return FAILED, str(last.get("message", ""))
    return OPEN, ""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """Make a sweep's folder and keep other sweeps out of it, where the system can.

    Yields:
        The descriptor that holds the lock: workers that inherit it keep the folder locked until
        the last of them has ended. None on a system without such locks.

    Raises:
        UserError: another sweep is at work in it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"--output: cannot write to {folder}: {error.strerror}") from None
    try:
        yield descriptor if _lock(descriptor, folder) else None
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> bool:
    """Return whether the lock is held now; False on a system without such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    for _ in range(_ATTEMPTS):  # workers of a sweep that was killed end on their own
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_PAUSE)
    raise UserError(f"{folder}: another sweep is at work in this folder")
