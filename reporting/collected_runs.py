"""Finished runs side by side: from folders of runs and sweeps to what tells them apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fl2ora.experiment.errors import UserError, shown
from fl2ora.experiment.sweep_grid import label_of
from fl2ora.reporting.run_file import RUN_FILE, RunFile
from fl2ora.reporting.sources import main_source
from fl2ora.reporting.sweep_folder import (
    DONE,
    FAILED,
    SWEEP_FILE,
    ChoiceRecord,
    SweepRecord,
    state_of,
)
from fl2ora.reporting.tables import metrics_table

SEED = "seed"
CODE = "code"
RUN = "run"
IMAGES = "dataset", "protocol"
_METHOD = "method"
_ANYWHERE = (
    SEED, "output-dir", "run-name", "cache-dir", "cache-gib", "cache-features", "round-timeout",
    "start-timeout", "callbacks", "resume", "force-resume", "checkpoint-every",
)  # fmt: skip


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended well.

    Attributes:
        folder: of the run.
        labels: what tells its settings from the others', by axis.
        seed: of the run.
        config: all settings, flat.
        code: fingerprint of the code it ran with.
        metrics: every row of its record.
    """

    folder: Path
    labels: Mapping[str, str]
    seed: int
    config: Mapping[str, Any]
    code: str
    metrics: pd.DataFrame

    @property
    def images(self) -> tuple[str, str]:
        """What runs have in common that are measured on the same central test images."""
        return str(self.config.get("dataset")), str(self.config.get("protocol"))


@dataclass(frozen=True)
class Collection:
    """Runs that are compared.

    Attributes:
        runs: in the order of the sweep or of the command line.
        axes: names of their labels.
        notes: what was left out, for people.
        choices: what a sweep chose on validation data.
        title: what it is.
    """

    runs: Sequence[FinishedRun]
    axes: tuple[str, ...]
    notes: tuple[str, ...]
    choices: Sequence[ChoiceRecord]
    title: str

    @property
    def single(self) -> bool:
        """Whether it is one run, with nothing to compare it with."""
        return len(self.runs) == 1

    @property
    def source(self) -> str:
        """The source that stands for the runs: the first central part, else the clients."""
        return main_source(self.runs[0].metrics["source"])

    def groups(self) -> dict[tuple[str, ...], list[FinishedRun]]:
        """Return the runs of equal settings, by their labels, in order."""
        found: dict[tuple[str, ...], list[FinishedRun]] = {}
        for run in self.runs:
            found.setdefault(tuple(run.labels[axis] for axis in self.axes), []).append(run)
        return found


def collect(folders: Iterable[Path]) -> Collection:
    """Read the finished runs in folders of runs and of sweeps.

    The runs of one sweep have its labels. Any others are told apart by the keys in which they
    differ, and by their code where that differs, so that runs of two codes are never averaged.

    Raises:
        UserError: a folder holds no run and no sweep, or no finished one; or two runs are equal,
            seed and all.
    """
    paths = list(folders)
    notes: list[str] = []
    if len(paths) == 1 and (paths[0] / SWEEP_FILE).exists():
        record = SweepRecord.load(paths[0])
        runs = _of_sweep(paths[0], record, notes)
        found = Collection(runs, tuple(record.axes), tuple(notes), record.choices, paths[0].name)
    else:
        runs = []
        for path in paths:
            if (path / SWEEP_FILE).exists():
                runs += _of_sweep(path, SweepRecord.load(path), notes)
            elif state_of(path)[0] == DONE:
                runs.append(_run(path))
            else:
                raise UserError(f"{path}: expected the folder of a finished run or of a sweep")
        axes, runs = _told_apart(runs)
        title = paths[0].name if len(paths) == 1 else f"{len(runs)} runs"
        found = Collection(runs, axes, tuple(notes), (), title)
    if not found.runs:
        raise UserError(f"{paths[0]}: expected at least one finished run, found none")
    _refuse_equal(found)
    return found if set(found.axes) - set(IMAGES) else _with_method(found)


def _with_method(found: Collection) -> Collection:
    """Name the runs' method too, where else only images would tell them from the untuned model."""
    runs = [
        replace(run, labels={_METHOD: label_of(run.config.get(_METHOD, "-")), **run.labels})
        for run in found.runs
    ]
    return replace(found, runs=runs, axes=(_METHOD, *found.axes))


def _of_sweep(root: Path, record: SweepRecord, notes: list[str]) -> list[FinishedRun]:
    """Return the finished runs of a sweep, and note what is missing."""
    runs = []
    missing, failed = 0, []
    for cell in record.cells:
        folder = root / cell.folder
        state = state_of(folder)[0] if cell.folder else FAILED
        if state == DONE:
            runs.append(replace(_run(folder), labels=cell.labels, seed=cell.seed))
        elif cell.state == FAILED or state == FAILED:
            labels = ", ".join(f"{axis}={label}" for axis, label in cell.labels.items())
            failed.append(f"failed: {labels}, seed {cell.seed}: {cell.reason}")
        else:
            missing += 1
    if missing:
        notes.append(f"{missing} of {len(record.cells)} cells of {root.name} are not done yet")
    notes += failed
    return runs


def _run(folder: Path) -> FinishedRun:
    record = RunFile.read(folder)
    seed = record.config.get(SEED)
    if type(seed) is not int:
        raise UserError(
            f"{folder / RUN_FILE}: config: {SEED}: expected a whole number, found {shown(seed)}"
        )
    metrics = metrics_table(folder)
    if not len(metrics):
        raise UserError(f"{folder}: the run left no metrics")
    return FinishedRun(folder, {}, seed, record.config, record.fingerprint, metrics)


def _told_apart(runs: Sequence[FinishedRun]) -> tuple[tuple[str, ...], list[FinishedRun]]:
    """Return the keys in which runs differ, and the runs labelled by them."""
    everything = [
        {
            **{k: label_of(v) for k, v in run.config.items() if k not in _ANYWHERE},
            CODE: run.code,
        }
        for run in runs
    ]
    keys = list(dict.fromkeys(key for settings in everything for key in settings))
    axes = [key for key in keys if len({settings.get(key) for settings in everything}) > 1]
    if not axes:
        name = runs[0].folder.name if len(runs) == 1 else "all"
        return (RUN,), [replace(run, labels={RUN: name}) for run in runs]
    labelled = [
        replace(run, labels={axis: settings.get(axis, "-") for axis in axes})
        for run, settings in zip(runs, everything, strict=True)
    ]
    return tuple(axes), labelled


def _refuse_equal(found: Collection) -> None:
    for runs in found.groups().values():
        seeds: dict[int, FinishedRun] = {}
        for run in runs:
            other = seeds.setdefault(run.seed, run)
            if other is not run:
                raise UserError(
                    f"{other.folder} and {run.folder} are the same run, seed {run.seed} and all: "
                    "give one of them"
                )
