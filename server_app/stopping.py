"""Ending a run between two rounds when its process is asked to."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

STOP_FILE = "stop"
"""In the run directory: whoever makes it asks for the end, from another process too."""

_ONE_REQUEST = 1.0  # seconds; `timeout` sends the same signal twice at once


@contextlib.contextmanager
def asked_to_end(folder: Path) -> Iterator[Callable[[], str]]:
    """Yield a function that returns who asked for the end of the run in a folder, or nothing.

    Asked is by SIGTERM, where this is the main thread of its process, or by ``STOP_FILE``.
    """
    asked: list[str] = []
    stop_file = folder / STOP_FILE
    with on_sigterm(lambda: asked.append("SIGTERM")):
        yield lambda: asked[0] if asked else f"the file {stop_file}" if stop_file.exists() else ""


@contextlib.contextmanager
def on_sigterm(then: Callable[[], object]) -> Iterator[None]:
    """Call ``then`` on a first SIGTERM; a second one does what it did before, which ends at once.

    Only the main thread of a process can listen; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not first:
            first.append(now)
            then()
        elif now - first[0] > _ONE_REQUEST:
            signal.signal(number, before)
            signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
