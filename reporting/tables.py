"""The figures of a run as tables: a CSV of everything, and the few columns people compare."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fl2ora.reporting.events import METRICS_FILE, read_lines

CSV_FILE = "metrics.csv"
SHOWN = ("accuracy", "ece", "mce", "nll")
_PERCENT = frozenset({"accuracy", "ece", "mce", "confidence", "ace", "mce_weighted"})


def metrics_table(folder: Path) -> pd.DataFrame:
    """Return every row of ``metrics.jsonl``: ``round``, ``source`` and the metrics by name.

    What a row lacks and what JSON holds as null is NaN.
    """
    rows = read_lines(folder / METRICS_FILE)
    table = pd.DataFrame(rows, columns=None if rows else ["round", "source"])
    numbers = table.columns.drop("source")
    return table.assign(**{name: pd.to_numeric(table[name]) for name in numbers})


def write_csv(folder: Path) -> Path:
    """Write ``metrics.csv`` beside ``metrics.jsonl``."""
    path = folder / CSV_FILE
    metrics_table(folder).to_csv(path, index=False)
    return path


def shown_rows(table: pd.DataFrame, source: str) -> list[list[str]]:
    """Return one row of text per evaluated round of ``source``: round, then ``SHOWN``."""
    rows = table[table["source"] == source].sort_values("round")
    return [
        ["zero-shot" if row["round"] == 0 else str(int(row["round"]))]
        + [_with_interval(name, row) for name in SHOWN]
        for row in rows.to_dict("records")
    ]


def _with_interval(name: str, row: Mapping[Hashable, Any]) -> str:
    """Return a figure, ECE with its 95 % interval where there is one."""
    text = show(name, float(row[name]))
    low, high = (float(row.get(f"{name}_{end}", math.nan)) for end in ("low", "high"))
    if name != "ece" or low != low:
        return text
    return f"{text} [{100 * low:.2f}, {100 * high:.2f}]"


def show(name: str, value: float) -> str:
    """Return a figure as people read it: percent with its sign, or a plain number."""
    if value != value:
        return "-"
    return f"{100 * value:.2f} %" if name in _PERCENT else f"{value:.4f}"
