"""Waiting for a run of a deployment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from fl2ora.engines.private_superlink import PrivateSuperLink
from fl2ora.reporting.events import read_lines

ENDS = {"finished", "failed", "interrupted"}
SILENCE = 20.0  # seconds
STANDSTILL = 300.0  # seconds without a sign of life after which a run has failed


def end_of(superlink: PrivateSuperLink, run_id: str, signs: Sequence[Path]) -> str:
    """Wait for a run however slow the machine is: it fails by standing still, not by the clock.

    Flower is asked when the run has said its end, or nothing for a while: each time it takes its
    command seconds of the processor.

    Args:
        superlink: where it runs.
        run_id: of the run.
        signs: files that grow while it lives, its ``events.jsonl`` the first.
    """
    seen: list[int] = []
    moved = asked = time.monotonic()
    while True:
        found = [path.stat().st_size if path.exists() else 0 for path in signs]
        now = time.monotonic()
        if found != seen:
            seen, moved = found, now
        ended = bool(ENDS & {event["event"] for event in read_lines(signs[0])})
        if ended or now - max(asked, moved) > SILENCE:
            status = superlink.status(run_id)
            if status.startswith("finished"):
                return status
            asked = time.monotonic()
        assert now < moved + STANDSTILL, superlink.log_tail(40)
        time.sleep(1)
