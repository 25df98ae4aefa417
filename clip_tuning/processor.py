"""How torch uses the processor: its threads, and the memory of what it computes."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers for mallopt
_NEVER = -1
_LARGEST = (2**27, 2**25)  # bytes of the blocks that are kept; old versions take the second


def use_processor(threads: int) -> None:
    """Let torch compute with so many threads, and keep what memory a step frees for the next.

    glibc gives memory back to the system as soon as a step has freed it, and the system clears it
    anew for the next step, which takes up to a seventh of the time. What blocks of up to 128 MiB
    have been in is kept until the process ends; larger ones are given back, since what lies between
    kept ones may be too small for the next. Other C libraries are left as they are, and so is one
    that an environment variable ``MALLOC_...`` tells what to do.

    Args:
        threads: those of the machine are not taken: with another number, torch adds in another
            order.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    _keep_freed_memory()


@cache
def _keep_freed_memory() -> None:
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None and any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST):
        mallopt(_TRIM_THRESHOLD, _NEVER)
