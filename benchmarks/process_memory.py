"""Memory of this process as Linux tells it, in bytes."""

from __future__ import annotations

from pathlib import Path

_SELF = Path("/proc/self")


def resident() -> int:
    """Return what is in memory now."""
    return _status("VmRSS")


def peak() -> int:
    """Return the most that was in memory at once since the start, or since ``forget_peak``."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak start anew from what is in memory now."""
    (_SELF / "clear_refs").write_text("5", encoding="ascii")


def _status(name: str) -> int:
    lines = (_SELF / "status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
