"""What is said of a process that ended before its time."""

from __future__ import annotations


def cause_of(code: int) -> str:
    """Return what an exit code says, as ``subprocess`` has it.

    >>> cause_of(3), cause_of(-9)
    ('exit code 3', 'signal 9, which the system sends when memory runs out')
    """
    if code >= 0:
        return f"exit code {code}"
    return f"signal {-code}" + (
        ", which the system sends when memory runs out" if code == -9 else ""
    )
