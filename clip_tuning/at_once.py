"""Several batches at once: a thread computes a batch as it would alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def results(work: Callable[[T], R], items: Iterable[T], at_once: int = 1) -> Iterator[R]:
    """Yield what ``work`` makes of each item, in their order.

    Each thread has as many threads of torch's as this one, so that the numbers are the same
    however many items are at work. Gradients and autocast are as a thread begins: on and off.

    Args:
        work: called from several threads.
        items: taken as there is room for them.
        at_once: threads; 1: none but this one.

    >>> list(results(lambda n: n * n, range(4), at_once=2))
    [0, 1, 4, 9]
    """
    if at_once == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(
        at_once, "batch", torch.set_num_threads, (torch.get_num_threads(),)
    ) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
