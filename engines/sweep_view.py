"""A sweep as it goes on, on the terminal: a bar, the runs at work, a line for each that ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from fl2ora.engines.sweep_cells import Job
from fl2ora.engines.sweep_workers import Ended
from fl2ora.experiment.errors import printable
from fl2ora.reporting.events import EVENTS_FILE, NewLines
from fl2ora.reporting.run_file import RUN_FILE
from fl2ora.reporting.sources import CALIBRATED, CLIENTS_VALIDATION, main_source
from fl2ora.reporting.sweep_folder import SELECTION, ChoiceRecord
from fl2ora.reporting.tables import metrics_table

_SHOWN = 3  # folders of other settings that are named


class SweepView:
    """Shows how far a sweep is.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._all = self._progress.add_task("cells", total=None, note="")
        self._tasks: dict[Path, tuple[TaskID, NewLines]] = {}
        self._workers, self._total, self._count = 1, 0, 0
        self._seconds: list[float] = []

    def __enter__(self) -> SweepView:
        """Start the live display."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._progress.stop()

    def expect(self, total: int, workers: int) -> None:
        """Say how many runs there will be, those that are done included."""
        self._total, self._workers = total, workers
        self._progress.update(self._all, total=total)
        self._print(f"{total} runs, {workers} at a time")

    def done_before(self, jobs: Sequence[Job]) -> None:
        """Count runs that an earlier sweep has done."""
        if jobs:
            self._print(f"{len(jobs)} done before")
        self._advance(len(jobs))

    def going_on(self, jobs: Sequence[Job]) -> None:
        """Say how many runs that were cut off go on."""
        if jobs:
            self._print(f"{len(jobs)} cut off before: from the last checkpoint on")

    def choices(self, choices: Sequence[ChoiceRecord]) -> None:
        """Say what was chosen on validation data."""
        for choice in choices:
            where = ", ".join(f"{axis}={label}" for axis, label in choice.labels.items()) or "all"
            if choice.chosen is None:
                self._print(f"{where}: no {choice.key} could be chosen", "yellow")
                continue
            edge = ", at the end of the list: a better one may lie beyond" if choice.at_edge else ""
            best = f"{choice.key} = {choice.chosen} has the best validation {choice.metric}"
            line = f"{where}: {best} of {len(choice.curve)} candidates{edge}"
            self._print(line, "yellow" if edge else None)

    def others(self, folders: Sequence[Path]) -> None:
        """Say which results in the folder are not part of this sweep."""
        if folders:
            named = ", ".join(path.name for path in folders[:_SHOWN])
            more = f" and {len(folders) - _SHOWN} more" if len(folders) > _SHOWN else ""
            self._print(
                f"Not used, as they are of other code, libraries or settings: {named}{more}",
                "yellow",
            )

    def ended(self, ended: Ended, reason: str) -> None:
        """Show how a run went, and about how long the rest will take."""
        if ended.job.folder in self._tasks:
            self._progress.remove_task(self._tasks.pop(ended.job.folder)[0])
        self._seconds.append(ended.seconds)
        self._advance(1)
        what = f"failed: {reason}" if reason else f"{_result(ended.job)} ({ended.seconds:.0f} s)"
        line = f"[{self._count}/{self._total}] {ended.job.cell}: {what}{self._left(', ')}"
        self._print(line, "yellow" if reason else None)
        self._progress.update(self._all, note=self._left())

    def update(self, at_work: Sequence[Job]) -> None:
        """Show the rounds of the runs at work."""
        for job in at_work:
            if job.folder not in self._tasks:
                title, total = printable(str(job.cell)), job.config.num_rounds
                task = self._progress.add_task(title, total=total, note="")
                self._tasks[job.folder] = task, NewLines(job.folder / EVENTS_FILE)
            task, lines = self._tasks[job.folder]
            for event in lines.read():
                if event.get("event") == "round-start" and isinstance(event.get("round"), int):
                    self._progress.update(task, completed=event["round"] - 1)

    def _left(self, before: str = "") -> str:
        """Return about how long the rest will take."""
        rest = self._total - self._count
        if not rest or not self._seconds:
            return ""
        mean = sum(self._seconds) / len(self._seconds)
        return f"{before}about {_duration(rest * mean / min(rest, self._workers))} left"

    def _advance(self, count: int) -> None:
        self._count += count
        self._progress.update(self._all, completed=self._count)

    def _print(self, line: str, style: str | None = None) -> None:
        self._console.print(
            printable(line), style=style, markup=False, highlight=False, soft_wrap=True
        )


def _duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> [_duration(s) for s in (8.2, 90, 4000, 200_000)]
    ['8 s', '2 min', '1 h 7 min', '55 h 33 min']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _result(job: Job) -> str:
    """Return accuracy and ECE of a finished run."""
    if not (job.folder / RUN_FILE).exists():
        return "no result"
    table = metrics_table(job.folder)
    if job.folder.parent.name == SELECTION:  # what is chosen by it must not be seen on test images
        table = table[table["source"] == CLIENTS_VALIDATION]
    else:
        source = main_source(table["source"])
        table = table[table["source"].isin([source, source + CALIBRATED])]
    if not len(table) or not {"accuracy", "ece"} <= set(table.columns):
        return "done"
    last = table.iloc[-1]
    where = "validation " if job.folder.parent.name == SELECTION else ""
    return f"{where}accuracy {100 * last['accuracy']:.1f} %, ECE {100 * last['ece']:.1f} %"
