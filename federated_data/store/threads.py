"""Work on many images by several threads, and a bar where it takes a while."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
logger = logging.getLogger(__name__)

_MOST_THREADS = 16
_AHEAD = 4  # images in work for each thread, which bounds memory
_PATIENCE, _BETWEEN = 2.0, 30.0  # seconds before work is shown, and between lines of a log


def in_order(work: Callable[[int], T], rows: Iterable[int]) -> Iterator[T]:
    """Yield ``work(row)`` of each row, in order, by as many threads as there are processors."""
    threads = min(_MOST_THREADS, _processors())
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads, "images") as executor:
        try:
            for row in rows:
                waiting.append(executor.submit(work, int(row)))
                if len(waiting) >= _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)


class Watch:
    """Shows how far work is, if it takes some seconds: a bar on a terminal, else lines of the log.

    Args:
        title: of the work.
        total: number of steps.
    """

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._next = time.monotonic() + _PATIENCE
        self._bar: Progress | None = None

    def __enter__(self) -> Watch:
        """Start the clock."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def expect(self, total: int) -> None:
        """Say how many steps there will be, where that was not known at first."""
        self._total = total

    def step(self) -> None:
        """Say that one more is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
        elif time.monotonic() >= self._next:
            self._show()

    def say(self, text: str) -> None:
        """Show one line."""
        logger.warning("%s", text)

    def _show(self) -> None:
        if not sys.stderr.isatty():
            self._next = time.monotonic() + _BETWEEN
            self.say(f"Data: {self._title}: {self._done:,} of {self._total:,}")
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
        )
        self._bar.add_task(self._title, total=self._total, completed=self._done)
        self._bar.start()


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
