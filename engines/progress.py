"""Rounds as they happen, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fl2ora.experiment.errors import printable
from fl2ora.reporting.comings import COMINGS
from fl2ora.reporting.events import EVENTS_FILE, NewLines
from fl2ora.reporting.run_lines import RunLines

_WARNINGS = (
    "drop", "adapter-kept", "stopped", "gave-up", "waiting", "checkpoint-failed", "resumed",
    "state-in-memory", *COMINGS,
)  # fmt: skip


class RoundsView:
    """Follows a run's ``events.jsonl``: a bar for the clients of a round, a line for each round.

    Args:
        folder: the run directory; it may not exist yet.
        console: where to show it.
        num_rounds: how many there will be.
        resumed: what the file holds already is of before an interruption, and not shown.
    """

    def __init__(
        self, folder: Path, console: Console, num_rounds: int, *, resumed: bool = False
    ) -> None:
        self._events = NewLines(folder / EVENTS_FILE)
        if resumed:
            self._events.read()
        self._lines = RunLines(num_rounds)
        self._console = console
        self._num_rounds = num_rounds
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None)
        self.ended = False
        self.failure: str | None = None
        self.interrupted = False

    def __enter__(self) -> RoundsView:
        """Start the live display."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show what is left and stop the display."""
        self.update()
        self._progress.stop()

    def update(self) -> bool:
        """Show what is new; return whether there was anything."""
        new = self._events.read()
        for event in new:
            self._show(event)
        return bool(new)

    def _show(self, event: Mapping[str, Any]) -> None:
        kind = event.get("event")
        match kind:
            case "round-start":
                title, clients = (
                    f"round {event.get('round')}/{self._num_rounds}",
                    event.get("clients"),
                )
                total = len(clients) if isinstance(clients, list) else None
                self._progress.reset(self._task, total=total, description=title)
            case "client":
                self._progress.advance(self._task)
            case "finished":
                self.ended = True
            case "failed" | "interrupted":
                self.ended, self.failure = True, printable(str(event.get("message", "")))
                self.interrupted = kind == "interrupted"
        line = self._lines.line_of(event)
        if line is not None:
            style = "yellow" if kind in _WARNINGS else None
            self._console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
