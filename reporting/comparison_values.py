"""The numbers in the figures of a comparison, of groups of runs that differ by seed alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fl2ora.reporting.collected_runs import FinishedRun
from fl2ora.reporting.comparison import final_row

Groups = Mapping[tuple[str, ...], Sequence[FinishedRun]]
"""Runs by their choices on the axes of a comparison."""

_CURVES = 8  # lines that can be told apart
_LEVEL = 0.95


def estimate(runs: Sequence[FinishedRun], name: str, source: str) -> tuple[float, float, float]:
    """Return mean and the ends of its 95 % interval."""
    rows = [final_row(run, source) for run in runs]
    values = np.array([row.get(name, math.nan) for row in rows])
    mean = float(values.mean())
    if len(values) > 1:
        from scipy import stats

        half = stats.t.ppf((1 + _LEVEL) / 2, len(values) - 1) * values.std(ddof=1)
        half = float(half) / math.sqrt(len(values))
        return mean, max(0.0, mean - half), min(1.0, mean + half)
    low, high = (rows[0].get(f"{name}_{end}", math.nan) for end in ("low", "high"))
    return mean, low, high


def distinct(groups: Groups, place: int) -> list[str]:
    """Return the choices of an axis, as they come."""
    return list(dict.fromkeys(labels[place] for labels in groups))


def runs_of_lines(groups: Groups) -> dict[str, list[FinishedRun]]:
    """Return the runs of each line of the curves, by what it is called."""
    if len(groups) <= _CURVES:
        return {", ".join(filter(None, labels)): list(runs) for labels, runs in groups.items()}
    found: dict[str, list[FinishedRun]] = {}
    for labels, runs in groups.items():
        found.setdefault(labels[0], []).extend(runs)
    return found


def by_round(runs: Sequence[FinishedRun], name: str, source: str) -> pd.DataFrame:
    """Return a column for each run, by round."""
    columns = []
    for run in runs:
        rows = run.metrics[run.metrics["source"] == source]
        if name in rows:
            columns.append(rows.drop_duplicates("round", keep="last").set_index("round")[name])
    return pd.concat(columns, axis=1) if columns else pd.DataFrame()


def mean_where(groups: Groups, metric: str, source: str, wanted: Mapping[int, str]) -> float:
    """Return the mean in percent over the runs whose labels are as wanted."""
    values = [
        final_row(run, source).get(metric, math.nan)
        for labels, runs in groups.items()
        if all(labels[place] == label for place, label in wanted.items())
        for run in runs
    ]
    return 100 * float(np.mean(values)) if values else math.nan
