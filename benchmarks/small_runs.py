"""Small comparisons: run several configurations in this process and print one table."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fl2ora.engines.in_process import run_in_process
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.events import EVENTS_FILE, METRICS_FILE, read_lines

QUIET = Console(quiet=True)


def run_once(settings: Mapping[str, Any], clients: int) -> dict[str, dict[str, Any]]:
    """Run one configuration and return its last figures by source.

    ``cost`` holds ``seconds`` per round of training and ``clients-test`` is there as in every run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        config = RunConfig.from_flat(
            {
                "num-clients": clients,
                "callbacks": "lora_diagnostics + traffic",
                "resamples": 0,
                **settings,
                "output-dir": scratch,
                "run-name": "run",
            }
        )
        folder = Path(scratch) / "run"
        run_in_process(config, clients, folder, QUIET)
        rows = read_lines(folder / METRICS_FILE)
        ends = [
            e["duration"] for e in read_lines(folder / EVENTS_FILE) if e["event"] == "round-end"
        ]
        drops = sum(e["event"] == "drop" for e in read_lines(folder / EVENTS_FILE))
    figures = {row["source"]: row for row in rows}
    figures["zero-shot"] = next(r for r in rows if r["source"] == "server-test")
    figures["cost"] = {"seconds": sum(ends) / max(1, len(ends)), "drops": drops}
    return figures


def compare(
    rows: Sequence[tuple[str, Mapping[str, Any]]], clients: int, columns: Sequence[str]
) -> None:
    """Run every named configuration and print a Markdown table as it grows."""
    print(f"| {' | '.join(['what', *columns])} |")
    print("|---|" + "---:|" * len(columns), flush=True)
    for name, settings in rows:
        started = time.monotonic()
        try:
            figures = run_once(settings, clients)
            cells = [cell(figures, column) for column in columns]
        except UserError as error:
            cells = [f"refused: {str(error).splitlines()[-1].strip()}"]
        print(f"| {' | '.join([name, *cells])} |", flush=True)
        QUIET.log(f"{name}: {time.monotonic() - started:.0f} s")


def cell(figures: Mapping[str, Mapping[str, Any]], column: str) -> str:
    """Return one cell; columns are ``accuracy``, ``ece``, ``mce``, ``nll``, or ``source/name``."""
    source, _, name = column.rpartition("/")
    value = figures.get(source or "server-test", {}).get(name)
    if value is None:
        return "-"
    if name in ("accuracy", "ece", "mce", "lora_aggregation_error"):
        return f"{100 * value:.2f} %"
    return f"{value:,.0f}" if name in ("bytes_down", "bytes_up", "drops") else f"{value:.3f}"
