"""What this process may use of the machine it is on."""

from __future__ import annotations

from pathlib import Path

import psutil

GIB_EACH = 1.5
"""Memory set aside for each of several processes, with a small model."""

_CGROUP = Path("/sys/fs/cgroup")


def at_once(wanted: int, threads: int, most: int = 1024) -> int:
    """Return how many things that need ``threads`` cores each are computed at once on the CPU.

    Args:
        wanted: so many; 0: as many as cores and memory allow, each with ``GIB_EACH``.
        threads: of each.
        most: so many there are.
    """
    memory = int(free_memory() / (GIB_EACH * 2**30))
    return max(1, min(wanted or min(usable_cores() // threads, memory), most))


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(psutil.Process().cpu_affinity()) if psutil.LINUX else psutil.cpu_count() or 1


def free_memory() -> float:
    """Return the bytes of memory this process and its children may still take."""
    free = float(psutil.virtual_memory().available)
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, float(limit) - float(used))
    except (OSError, ValueError):  # no such group, or "max"
        return free
