"""A sweep from its cells to a folder of finished runs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fl2ora.engines.sweep_cells import Job, Jobs
from fl2ora.engines.sweep_selection import chosen
from fl2ora.engines.sweep_view import SweepView
from fl2ora.engines.sweep_workers import Workers, workers_for
from fl2ora.experiment.config import Value
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.sweep_grid import Labels, Settings, Sweep
from fl2ora.reporting.sweep_folder import (
    CELLS,
    DONE,
    FAILED,
    OPEN,
    SELECTION,
    CellRecord,
    ChoiceRecord,
    SweepRecord,
    locked,
    state_of,
)
from fl2ora.server_app.resuming import look_back

_PAUSE = 0.3  # seconds between two looks at the runs
_LOGS = "workers"


@dataclass
class SweepRun:
    """Runs the cells of a sweep that are not done yet.

    Attributes:
        sweep: what is to be run.
        content: of its file, for the record.
        root: the sweep's folder, absolute.
        jobs: of the sweep.
        view: where progress is shown.
        workers: how many processes; 0: as the machine allows.
        failures: why cells failed, by cell.
    """

    sweep: Sweep
    content: Mapping[str, Any]
    root: Path
    jobs: Jobs
    view: SweepView
    workers: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def run(self) -> SweepRecord:
        """Run what is missing; cells that fail do not stop the others.

        Raises:
            UserError: a mistake in a cell, before any of them is started; or another sweep is at
                work in the folder.
        """
        self.jobs.check(self.sweep.cells(), self.sweep.select)
        with locked(self.root) as lock:
            for name in (CELLS, _LOGS):
                (self.root / name).mkdir(exist_ok=True)
            ahead = self._candidates()
            all_jobs = [job for _, candidates in ahead for _, jobs in candidates for job in jobs]
            sample = all_jobs or [self.jobs.job(cell) for cell in self.sweep.cells()]
            total = len(all_jobs) + len(self.sweep.cells())
            count = workers_for(sample, total, self.workers)
            with self.view, Workers(count, self.root / _LOGS, lock) as workers:
                self.view.expect(total, count)
                self._do(workers, all_jobs)
                choices = [
                    chosen(self.sweep.select, labels, candidates)
                    for labels, candidates in ahead
                    if self.sweep.select is not None
                ]
                planned = self._planned(choices)
                self._record(planned, choices).save(self.root)
                self.view.choices(choices)
                jobs = [job for job in planned.values() if job is not None]
                self._name_others(jobs)
                self._do(workers, jobs)
                record = self._record(planned, choices)
                record.save(self.root)
        return record

    def _candidates(self) -> list[tuple[Labels, list[tuple[Value, list[Job]]]]]:
        """Return what ``select`` has to measure, by the labels of those it is for."""
        select = self.sweep.select
        if select is None:
            return []
        (self.root / SELECTION).mkdir(exist_ok=True)
        return [
            (labels, self.jobs.candidates(cell, select)) for labels, cell in self.sweep.groups()
        ]

    def _planned(self, choices: Sequence[ChoiceRecord]) -> dict[str, Job | None]:
        """Return the job of every cell by its name; None where nothing could be chosen for it."""
        planned: dict[str, Job | None] = {}
        for cell in self.sweep.cells():
            more: Settings = {}
            for choice in choices:
                if choice.labels.items() <= cell.labels.items():
                    more = {} if choice.chosen is None else {choice.key: choice.chosen}
            lost = bool(choices) and not more
            planned[str(cell)] = None if lost else self.jobs.job(cell, more=more)
        return planned

    def _do(self, workers: Workers, jobs: Sequence[Job]) -> None:
        """Run those jobs that are not done; one that was cut off goes on from its checkpoint."""
        missing = [job for job in jobs if state_of(job.folder)[0] != DONE]
        self.view.done_before([job for job in jobs if job not in missing])
        missing = [_ready(job) for job in missing]
        self.view.going_on([job for job in missing if job.config.resume])
        for ended in workers.run(missing, _PAUSE):
            if ended is not None:
                reason = ended.reason
                if not reason and state_of(ended.job.folder)[0] != DONE:
                    reason = "the run did not end as it should"
                if reason:
                    self.failures[str(ended.job.folder)] = reason
                self.view.ended(ended, reason)
            self.view.update(workers.at_work)

    def _name_others(self, jobs: Sequence[Job]) -> None:
        """Say which results in the folder belong to other code or other settings."""
        ours = {job.folder.name for job in jobs}
        others = [path for path in sorted((self.root / CELLS).iterdir()) if path.name not in ours]
        self.view.others([path for path in others if state_of(path)[0] == DONE])

    def _record(
        self, planned: Mapping[str, Job | None], choices: Sequence[ChoiceRecord]
    ) -> SweepRecord:
        cells = []
        codes = set()
        for cell in self.sweep.cells():
            job = planned[str(cell)]
            if job is None:
                reason = "no candidate of 'select' could be measured for it"
                cells.append(CellRecord(cell.labels, cell.seed, "", FAILED, reason))
                continue
            codes.add(self.jobs.code(job.config))
            state, _ = state_of(job.folder)
            reason = self.failures.get(str(job.folder), "")
            state = FAILED if reason and state != DONE else state
            folder = str(job.folder.relative_to(self.root))
            cells.append(CellRecord(cell.labels, cell.seed, folder, state, reason))
        code = "+".join(sorted(codes))
        return SweepRecord(dict(self.content), code, list(self.sweep.axes), cells, list(choices))


def _ready(job: Job) -> Job:
    """Return a job that can be started: one that goes on, or one whose folder is free."""
    if not job.folder.is_dir():
        return job
    if state_of(job.folder)[0] == OPEN:
        going_on = job.config.model_copy(update={"resume": str(job.folder)})
        # What cannot end as it would have, as where clients kept their state in memory alone, is
        # not gone on with.
        with contextlib.suppress(UserError):
            if look_back(job.folder, going_on).checkpoint is not None:
                return replace(job, config=going_on)
    shutil.rmtree(job.folder)
    return job
