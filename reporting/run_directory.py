"""The folder a run leaves behind, which no other run shares."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

from fl2ora.experiment.config import RunConfig, Value
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import user_path
from fl2ora.reporting.events import EVENTS_FILE, read_lines
from fl2ora.reporting.run_file import RUN_FILE, RunFile, write_resume_file

OUTPUT_VARIABLE = "FL2ORA_OUTPUT_DIR"
LOG_FILE = "superlink.log"

logger = logging.getLogger(__name__)


def runs_root(output_dir: str) -> Path:
    """Return the absolute folder for runs: the run config's, else the environment's, else home's.

    Flower runs the ServerApp in a working directory of its own, so a relative path is refused
    rather than resolved against that.

    Raises:
        UserError: the path is relative, or none at all.
    """
    text = output_dir or os.environ.get(OUTPUT_VARIABLE, "") or "~/fl2ora-runs"
    try:
        path = user_path(text)
    except UserError as error:
        raise UserError(f"output-dir: {error}") from None
    if not path.is_absolute():
        raise UserError(f"output-dir: expected an absolute path, found {text!r}")
    return path


def claim_name(root: Path, stem: str) -> str:
    """Make an empty folder for a run in ``root`` and return its name.

    It is ``stem``; where that exists, even since a moment ago, ``stem-2``, ``stem-3`` and so on.

    Raises:
        UserError: the folder cannot be made.
    """
    with _writing(root / stem):
        root.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            name = stem if number == 1 else f"{stem}-{number}"
            with contextlib.suppress(FileExistsError):
                (root / name).mkdir()
                return name
    raise AssertionError  # numbers do not end


def check_free(folder: Path) -> None:
    """Refuse the folder of a run that finished or may still go on.

    One that does not exist, is empty, or holds a run that failed may be used.

    Raises:
        UserError: says what is there.
    """
    with _writing(folder):
        if not folder.exists() or not any(folder.iterdir()) or _has_failed(folder):
            return
        last = _last_event(folder)
        what = {
            "finished": "a finished run",
            "interrupted": f"an interrupted run, which --resume {folder} goes on with",
            "": "other files",
        }.get(last, f"a run that may still be going on; if not, --resume {folder} goes on with it")
    raise UserError(
        f"run-name: {folder} holds {what}: choose another name, or take the folder away"
    )


def create_run_directory(config: RunConfig, run_id: int) -> Path:
    """Create ``<output-dir>/<run-name or run id>`` and write down what the run is.

    ``run.json`` holds the fused config, library versions, the code's fingerprint and the run id.
    Whoever creates it has the folder to itself: of two runs with one name, one is refused. A failed
    run does not keep its name: its folder is renamed to ``<name>-failed``.

    Raises:
        UserError: the folder holds another run, or cannot be made.
    """
    root = runs_root(config.output_dir)
    folder = root / (config.run_name or str(run_id))
    with _writing(folder):
        root.mkdir(parents=True, exist_ok=True)
        with _alone_in(root):
            check_free(folder)
            if folder.exists() and any(folder.iterdir()):
                _set_aside(folder)
            folder.mkdir(exist_ok=True)
            _write_first(folder / RUN_FILE, RunFile.of(config, run_id).text())
        write_resume_file(folder, config)
    return folder


def shared_directory(run_config: Mapping[str, Value], run_id: int) -> Path | None:
    """Return the run's directory as a node sees it; None where it is on another machine.

    Args:
        run_config: flat, as the node was given it.
        run_id: Flower's.
    """
    resumed, output, name = (
        str(run_config.get(key, "")) for key in ("resume", "output-dir", "run-name")
    )
    try:
        folder = Path(resumed) if resumed else runs_root(output) / (name or str(run_id))
        return folder if RunFile.read(folder).run_id == run_id else None
    except UserError:
        return None


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's directory against other processes; a process that ends lets go of it.

    Raises:
        UserError: another one works on the run.
    """
    descriptor: int | None = None
    try:
        with contextlib.suppress(ImportError):  # Windows
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{folder}: this run is still going on, in another process"
                ) from None
            except OSError:  # some network file systems have no locks
                logger.debug("No lock on %s", folder)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _write_first(path: Path, text: str) -> None:
    """Write a file that must not exist yet; leave none where it cannot be written in full."""
    try:
        with path.open("x", encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:
                path.unlink()
                raise
    except FileExistsError:
        raise UserError(f"run-name: {path.parent} was taken by another run just now") from None


def _has_failed(folder: Path) -> bool:
    """Return whether a run ended in an error there, or did not come to write a record."""
    nothing_but_a_log = [path.name for path in folder.iterdir()] == [LOG_FILE]
    return nothing_but_a_log or _last_event(folder) == "failed"


def _last_event(folder: Path) -> str:
    """Return the kind of the last event on record; empty where there is no run."""
    events = read_lines(folder / EVENTS_FILE)
    if events:
        return str(events[-1].get("event", "unknown"))
    return "none" if (folder / RUN_FILE).exists() else ""


def _set_aside(folder: Path) -> None:
    """Rename a failed run's folder, so that nothing of it is lost."""
    for number in count(1):
        aside = folder.with_name(f"{folder.name}-failed" + (f"-{number}" if number > 1 else ""))
        if not aside.exists():
            folder.rename(aside)
            logger.warning("The failed run in %s is now in %s", folder, aside)
            return


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"output-dir: cannot write to {folder}: {error}") from error


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in here for the same folder, where the system can tell."""
    descriptor: int | None = None
    try:
        with contextlib.suppress(ImportError, OSError):  # Windows, some network file systems
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
