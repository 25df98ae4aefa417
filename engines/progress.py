"""Rounds as they happen, on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import fl2ora.calibration as calibration  # its names are loaded when used, and torch with them
from fl2ora.reporting.events import EVENTS_FILE, read_lines
from fl2ora.reporting.tables import show


class RoundsView:
    """Follows a run's ``events.jsonl``: a bar for the clients of a round, a line for each round.

    Args:
        folder: the run directory; it may not exist yet.
        console: where to show it.
        num_rounds: how many there will be.
    """

    def __init__(self, folder: Path, console: Console, num_rounds: int) -> None:
        """Show nothing yet."""
        self._file = folder / EVENTS_FILE
        self._console = console
        self._num_rounds = num_rounds
        self._seen = 0
        self._loss = ""
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
        events = read_lines(self._file)
        new = events[self._seen :]
        self._seen = len(events)
        for event in new:
            self._show(event)
        return bool(new)

    def _show(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "nodes":
                nodes = event["nodes"]
                total = sum(node["train"] for node in nodes)
                self._line(f"{len(nodes)} clients with {total} training images")
            case "round-start":
                title = f"round {event['round']}/{self._num_rounds}"
                self._progress.reset(self._task, total=len(event["clients"]), description=title)
            case "client":
                self._progress.advance(self._task)
            case "drop":
                self._line(f"  client {event['client']} not used: {event['reason']}", "yellow")
            case "adapter-kept":
                self._line(
                    f"  adapter kept: {event['usable']} usable replies, {event['expected']} needed",
                    "yellow",
                )
            case "round-end":
                self._loss = f"loss {event['loss']:.4f}" if event.get("loss") is not None else ""
                self._loss += f"  {event['duration']:.1f} s"
            case "metrics" if event["source"] == "server-test":
                self._line(self._metrics(event))
            case "outcome" if event["asked"]:
                self._line(f"{event['updates']} of {event['asked']} updates used")
                if event["warning"]:
                    self._line(f"warning: {event['warning']}", "yellow")
            case "finished":
                self.ended = True
            case "failed":
                self.ended, self.failure = True, str(event["message"])

    def _metrics(self, event: dict[str, Any]) -> str:
        number = event["round"]
        name = f"round {number}/{self._num_rounds}" if number else "zero-shot"
        line = f"{name:>12}"
        for metric in calibration.METRICS:
            if metric.headline and metric.name in event:
                value = event[metric.name]
                shown = show(metric, float("nan") if value is None else value)
                line += f"  {metric.title} {shown:>8}"
        return f"{line}  {self._loss}"

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style or None, markup=False, highlight=False)
