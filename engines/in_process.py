"""Running the very same ServerApp and ClientApp in this process."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from flwr.app import Context, RecordDict
from rich.console import Console

from fl2ora.client_app.app import app as client_app
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.engines.progress import RoundsView
from fl2ora.experiment.config import RunConfig
from fl2ora.server_app.app import app as server_app
from fl2ora.server_app.run_log import RUN_LOG

_REFRESH_SECONDS = 0.2


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
    grid = InProcessGrid(client_app, flat, num_clients, run_id)
    context = Context(
        run_id=run_id, node_id=0, node_config={}, state=RecordDict(), run_config=dict(flat)
    )
    done = threading.Event()
    shown = RoundsView(folder, console, config.num_rounds, resumed=bool(config.resume))
    with shown as view, _without(RUN_LOG):
        watcher = threading.Thread(target=_watch, args=(view, done), daemon=True)
        watcher.start()
        try:
            server_app(grid, context)
        finally:
            done.set()
            watcher.join()


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
