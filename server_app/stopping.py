"""Ending a run between two rounds when its process is asked to."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

_ONE_REQUEST = 1.0  # seconds; `timeout` sends the same signal twice at once

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def listening(stop_file: Path) -> Iterator[Callable[[], str]]:
    """Yield a function that returns who asked for the end, or nothing.

    Asked is by SIGTERM, where this is the main thread of its process, or by a file. The first
    signal is noted; a second one does what it did before, which is to end at once.

    Args:
        stop_file: whoever makes it asks for the end, from another process too.
    """
    first: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if first and now - first[0] > _ONE_REQUEST:
            signal.signal(number, before)
            if callable(before):
                before(number, frame)
            else:
                signal.raise_signal(number)
        elif not first:
            first.append(now)
            logger.warning("SIGTERM: ending after this round; a second one ends at once")

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, note) if is_main else None
    try:
        yield lambda: "SIGTERM" if first else f"{stop_file}" if stop_file.exists() else ""
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
