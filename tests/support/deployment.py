"""Waiting for a run of a deployment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from fl2ora.engines.private_superlink import PrivateSuperLink

STANDSTILL = 300.0  # seconds without a sign of life after which a run has failed


def end_of(superlink: PrivateSuperLink, run_id: str, signs: Sequence[Path]) -> str:
    """Wait for a run however slow the machine is: it fails by standing still, not by the clock.

    Args:
        superlink: where it runs.
        run_id: of the run.
        signs: files that grow while it lives.
    """
    seen: tuple[str, list[int]] | None = None
    moved = time.monotonic()
    while not (status := superlink.status(run_id)).startswith("finished"):
        found = status, [path.stat().st_size if path.exists() else 0 for path in signs]
        if found != seen:
            seen, moved = found, time.monotonic()
        assert time.monotonic() < moved + STANDSTILL, superlink.log_tail(40)
        time.sleep(2)
    return status
