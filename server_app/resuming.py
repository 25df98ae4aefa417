"""Opening a run's directory: a new one, or that of an interrupted run, with what counts of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.config import RunConfig, Value
from fl2ora.experiment.errors import UserError, shown
from fl2ora.experiment.fingerprint import code_fingerprint, library_versions
from fl2ora.experiment.plugins import load
from fl2ora.reporting.comings import in_memory_alone
from fl2ora.reporting.events import EVENTS_FILE, Place, read_lines
from fl2ora.reporting.rewinding import begun_after, lasting_events, rewind
from fl2ora.reporting.run_directory import create_run_directory, held
from fl2ora.reporting.run_file import RunFile, write_resume_file
from fl2ora.server_app.checkpoint import Checkpoint, discard, rounds_saved
from fl2ora.server_app.round_loop import is_over
from fl2ora.server_app.stopping import STOP_FILE

# What may differ: it changes no number of the run.
_FREE = frozenset(
    {
        "resume", "force-resume", "output-dir", "run-name", "checkpoint-every", "round-timeout",
        "start-timeout", "cache-dir", "cache-gib", "workers",
    }
)  # fmt: skip

_NAMED = 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Past:
    """What an interrupted run left to go on from.

    Attributes:
        checkpoint: None: it had none yet, so that the run begins anew.
        damaged: what was wrong with later checkpoints.
        runs: the interrupted runs; see ``Lineage``.
        lost: the clients of each round that was begun after the checkpoint.
        changed: settings, code and libraries that differ, as ``run.json`` records them.
    """

    checkpoint: Checkpoint | None
    damaged: tuple[str, ...]
    runs: tuple[tuple[int, int], ...]
    lost: tuple[tuple[str, ...], ...]
    changed: Mapping[str, Any]

    @property
    def round(self) -> int:
        """The last round that counts."""
        return 0 if self.checkpoint is None else self.checkpoint.state.round


@contextlib.contextmanager
def opened(config: RunConfig, run_id: int) -> Iterator[tuple[Path, Past | None]]:
    """Yield the run's directory, held against other processes, and what it goes on from.

    Raises:
        UserError: the directory cannot be made, or its run cannot be gone on with.
    """
    if not config.resume:
        folder = create_run_directory(config, run_id)
        with held(folder):
            yield folder, None
        return
    folder = Path(config.resume)
    RunFile.read(folder)
    with held(folder):
        described, past = RunFile.read(folder), look_back(folder, config)
        changed = {"round": past.round, "run_id": described.run_id, **past.changed}
        earlier = tuple(
            {**entry, "round": min(entry["round"], past.round)} for entry in described.resumed
        )
        now = replace(RunFile.of(config, run_id), resumed=(*earlier, changed))
        with _writing(folder):
            now.replace(folder)
            write_resume_file(folder, config)
            rewind(folder, _place(past))
            discard(folder, {past.round})
            (folder / STOP_FILE).unlink(missing_ok=True)
        yield folder, past


def look_back(folder: Path, config: RunConfig) -> Past:
    """Find what a run can go on from, changing nothing.

    Raises:
        UserError: it has finished, or its settings, code or libraries differ and are not let.
    """
    described = RunFile.read(folder)
    checkpoint, damaged = _newest(folder)
    done = 0 if checkpoint is None else checkpoint.state.round
    if checkpoint is not None:
        _refuse_done(folder, checkpoint, config)
    changed = _changes(described, config)
    problems = [
        *(damaged if checkpoint is None else ()),
        *(f"{key}: expected {shown(old)}, found {shown(new)}" for key, (old, new) in
          changed.get("config", {}).items() if key != "num-rounds" or new < old),
        *(f"{key}: expected {old}, found {new}" for key, (old, new) in
          {**changed.get("versions", {}), **changed.get("code", {})}.items()),
        *_unrepeatable(checkpoint, described, config),
        *_forgotten(folder, done),
    ]  # fmt: skip
    if problems and not config.force_resume:
        raise UserError(
            f"resume: {folder} was begun otherwise, and would not end as it would have:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
            + "\n--force (force-resume = true) goes on all the same and puts this on record"
        )
    past = Past(checkpoint, damaged, (), (), changed)
    runs = (*((e["run_id"], min(e["round"], done)) for e in described.resumed),
            (described.run_id, done))  # fmt: skip
    return replace(past, runs=runs, lost=tuple(begun_after(folder, _place(past))))


def refuse_other_clients(
    checkpoint: Checkpoint, clients: Mapping[str, int], config: RunConfig
) -> dict[str, list[str]]:
    """Compare the clients and their numbers of images with the checkpoint's.

    Returns:
        What differs, for the record; nothing where nothing does.

    Raises:
        UserError: they differ, without ``force-resume``.
    """
    before = checkpoint.clients
    found = {
        "missing": sorted(before.keys() - clients.keys()),
        "new": sorted(clients.keys() - before.keys()),
        "resized": sorted(
            key for key in before.keys() & clients.keys() if before[key] != clients[key]
        ),
    }
    found = {name: keys for name, keys in found.items() if keys}
    if found and not config.force_resume:
        words = "; ".join(f"{name}: {', '.join(keys[:10])}" for name, keys in found.items())
        raise UserError(
            f"resume: expected the {len(before)} clients of before, found others: {words}; "
            "--force (force-resume = true) goes on all the same and puts this on record"
        )
    return found


def _newest(folder: Path) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Return the newest whole checkpoint, and what is wrong with later ones."""
    damaged: list[str] = []
    for number in reversed(rounds_saved(folder)):
        try:
            return Checkpoint.load(folder, number), tuple(damaged)
        except UserError as error:
            damaged.append(str(error))
    return None, tuple(damaged)


def _refuse_done(folder: Path, checkpoint: Checkpoint, config: RunConfig) -> None:
    state, wanted = checkpoint.state, config.num_rounds
    if wanted < state.round:
        raise UserError(
            f"num-rounds: expected at least {state.round}, the rounds done in {folder}, "
            f"found {wanted}"
        )
    events = read_lines(folder / EVENTS_FILE)
    if not events or events[-1].get("event") != "finished" or not is_over(state, wanted):
        return
    why = f"ended early: {state.stop}" if state.stop else f"has done all its {wanted} rounds"
    hint = "" if state.stop else "; raise num-rounds to go on: --set num-rounds=..."
    raise UserError(f"resume: the run in {folder} has finished and {why}{hint}")


def _changes(described: RunFile, config: RunConfig) -> dict[str, dict[str, list[Any]]]:
    """Return what differs, as ``{kind: {name: [before, now]}}``."""
    before: dict[str, Value] = {**RunConfig().flat(), **described.config}
    keys = {
        key: [before.get(key), value]
        for key, value in config.flat().items()
        if key not in _FREE and before.get(key) != value
    }
    versions = library_versions()
    libraries = {
        name: [described.versions.get(name, "missing"), version]
        for name, version in versions.items()
        if described.versions.get(name) != version
    }
    code = [described.fingerprint, code_fingerprint()]
    found: dict[str, dict[str, list[Any]]] = {
        "config": keys,
        "versions": libraries,
        "code": {"code": code} if code[0] != code[1] else {},
    }
    return {kind: names for kind, names in found.items() if names}


def _unrepeatable(
    checkpoint: Checkpoint | None, described: RunFile, config: RunConfig
) -> Sequence[str]:
    """Say what would not be as in an undisturbed run although no setting differs."""
    if checkpoint is None:
        return ()
    problems = []
    if checkpoint.unsaved:
        problems.append(
            f"strategy: {config.strategy} remembers {', '.join(checkpoint.unsaved)}, which no "
            f"checkpoint holds; a strategy of fl2ora's is saved whole"
        )
    before = described.config.get("num-rounds")
    weights = load(config.method, TuningMethod).round_weights(config.num_rounds)
    if weights is not None and before != config.num_rounds:
        problems.append(
            f"num-rounds: expected {before}, by which {config.method} has weighed the rounds so "
            f"far, found {config.num_rounds}"
        )
    return problems


def _forgotten(folder: Path, done: int) -> Sequence[str]:
    """Say which clients have lost what they remembered of the rounds that are done."""
    names = in_memory_alone(lasting_events(folder), done)
    if not names:
        return ()
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        f"clients {', '.join(names[:_NAMED])}{more}: kept their state in memory alone, which ended "
        "with the run: expected a state-dir in their node config",
    )


def _place(past: Past) -> Place:
    return Place() if past.checkpoint is None else past.checkpoint.place


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"resume: cannot write to {folder}: {error}") from error
