"""The numbers in the figures of a comparison, of groups of runs that differ by seed alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fl2ora.reporting.collected_runs import FinishedRun
from fl2ora.reporting.comparison import final_row
from fl2ora.reporting.comparison_costs import bytes_until

Groups = Mapping[tuple[str, ...], Sequence[FinishedRun]]
"""Runs by their choices on the axes of a comparison."""

MEGABYTES = "megabytes"
_CURVES = 8  # lines that can be told apart
_LEVEL = 0.95


@dataclass(frozen=True)
class Quantity:
    """What an axis of a figure shows.

    Attributes:
        name: of a metric that is a fraction, or ``MEGABYTES``.
        title: of the axis.
        scale: from the value to what is shown.
    """

    name: str
    title: str
    scale: float = 100


ACCURACY, ECE = Quantity("accuracy", "accuracy (%)"), Quantity("ece", "ECE (%)")
TRAFFIC = Quantity(MEGABYTES, "tensors to and from all clients (MB)", 1)


def estimate(runs: Sequence[FinishedRun], name: str, source: str) -> tuple[float, float, float]:
    """Return mean and the ends of its 95 % interval, of a metric or of the bytes that travelled."""
    rows = [_values(run, source) for run in runs]
    values = np.array([row.get(name, math.nan) for row in rows])
    mean = float(values.mean())
    if len(values) > 1:
        from scipy import stats

        half = stats.t.ppf((1 + _LEVEL) / 2, len(values) - 1) * values.std(ddof=1)
        half = float(half) / math.sqrt(len(values))
        most = math.inf if name == MEGABYTES else 1.0
        return mean, max(0.0, mean - half), min(most, mean + half)
    low, high = (rows[0].get(f"{name}_{end}", math.nan) for end in ("low", "high"))
    return mean, low, high


def has_traffic(groups: Groups) -> bool:
    """Return whether the bytes of some run were counted."""
    return any(bytes_until(run) > 0 for runs in groups.values() for run in runs)


def _values(run: FinishedRun, source: str) -> Mapping[str, float]:
    return {**final_row(run, source), MEGABYTES: bytes_until(run) / 1e6}


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
