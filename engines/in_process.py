"""Running the very same ServerApp and ClientApp in this process."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from flwr.app import Context, RecordDict
from rich.console import Console

from fl2ora.client_app.app import app as client_app
from fl2ora.clip_tuning.build import resolve_device
from fl2ora.engines.client_processes import ClientProcesses
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.engines.progress import RoundsView
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.machine import at_once
from fl2ora.server_app.app import app as server_app
from fl2ora.server_app.run_log import RUN_LOG

_REFRESH_SECONDS = 0.2
_PAYS_AFTER = 5.0
"""Seconds of a processor that other processes take to start; see ``ClientProcesses``."""


def run_in_process(config: RunConfig, num_clients: int, folder: Path, console: Console) -> None:
    """Run ``config`` to its end; a debugger sees both apps on this thread.

    Args:
        config: of the run; ``output-dir`` and ``run-name`` lead to ``folder``.
        num_clients: nodes to create.
        folder: the run directory, for the display.
        console: where to show progress.

    Raises:
        UserError: a mistake in the configuration or the data.
    """
    run_id = time.time_ns() // 1000
    flat = config.flat()
    context = Context(
        run_id=run_id, node_id=0, node_config={}, state=RecordDict(), run_config=dict(flat)
    )
    done = threading.Event()
    shown = RoundsView(folder, console, config.num_rounds, resumed=bool(config.resume))
    with shown as view, _without(RUN_LOG), processes_for(config, num_clients, folder) as processes:
        grid = InProcessGrid(
            client_app,
            flat,
            num_clients,
            run_id,
            processes=processes,
            clients_per_batch=config.clients_per_batch,
        )
        watcher = threading.Thread(target=_watch, args=(view, done), daemon=True)
        watcher.start()
        try:
            server_app(grid, context)
        finally:
            done.set()
            watcher.join()


@contextlib.contextmanager
def processes_for(
    config: RunConfig, num_clients: int, folder: Path
) -> Iterator[ClientProcesses | None]:
    """Yield the processes that compute clients beside this one; None where it computes them all.

    Raises:
        UserError: ``workers`` asks for what this system cannot do.
    """
    count = _workers_of(config, num_clients)
    if count == 1:
        yield None
        return
    after = 0.0 if config.workers else _PAYS_AFTER
    with ClientProcesses(
        count, config.flat(), num_clients, config.threads, folder, after
    ) as processes:
        yield processes


def _workers_of(config: RunConfig, num_clients: int) -> int:
    """Return how many clients are computed at once: never more than a round has.

    If that is left open it is as many as cores and memory allow; one where clients share a GPU or
    a batch.
    """
    if config.clients_per_batch > 1:
        return 1
    can_fork = hasattr(os, "fork")
    if config.workers > 1 and not can_fork:
        raise UserError(f"workers: expected 0 or 1 on this system, found {config.workers}")
    trained = max(round(config.fraction_train * num_clients), config.min_train_clients)
    at_most = num_clients if config.evaluate_on == "nodes" else trained
    if not config.workers and not (can_fork and resolve_device(config.device).type == "cpu"):
        return 1
    return at_once(config.workers, config.threads, min(at_most, num_clients))


@contextlib.contextmanager
def _without(log: logging.Logger) -> Iterator[None]:
    """Keep lines out of a log that the display shows."""
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def _watch(view: RoundsView, done: threading.Event) -> None:
    while not done.wait(_REFRESH_SECONDS):
        view.update()
