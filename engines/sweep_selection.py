"""Choosing one key of some cells by what their runs measured on validation data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from fl2ora.calibration.metrics.table import METRICS
from fl2ora.engines.sweep_cells import Job
from fl2ora.experiment.config import Value
from fl2ora.experiment.sweep_grid import Labels, Select
from fl2ora.reporting.sources import CLIENTS_VALIDATION
from fl2ora.reporting.sweep_folder import DONE, ChoiceRecord, state_of
from fl2ora.reporting.tables import metrics_table


def chosen(
    select: Select, labels: Labels, candidates: Sequence[tuple[Value, Sequence[Job]]]
) -> ChoiceRecord:
    """Return the candidate whose mean over the seeds is best; of equal ones, the first.

    A candidate of which a run failed or has no finite value is out.
    """
    found = [(value, [_measured(job, select.metric) for job in jobs]) for value, jobs in candidates]
    curve = [_point(value, values) for value, values in found]
    better = {metric.name: metric.better for metric in METRICS}[select.metric]
    sign = -1.0 if better == "higher" else 1.0
    means = [math.inf if p["mean"] is None else sign * float(p["mean"]) for p in curve]
    best = min(range(len(means)), key=means.__getitem__)
    known = math.isfinite(means[best])
    return ChoiceRecord(
        labels,
        select.key,
        select.metric,
        curve,
        found[best][0] if known else None,
        known and best in (0, len(means) - 1) and _is_number(found[best][0]),
    )


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _point(value: Value, values: Sequence[float]) -> dict[str, Any]:
    usable = all(map(math.isfinite, values))
    return {
        "value": value,
        "mean": statistics.fmean(values) if usable else None,
        "sd": statistics.stdev(values) if usable and len(values) > 1 else None,
        "n": len(values),
    }


def _measured(job: Job, metric: str) -> float:
    """Return the metric of a run's validation data after its last round."""
    if state_of(job.folder)[0] != DONE:
        return math.nan
    table = metrics_table(job.folder)
    rows = table[table["source"] == CLIENTS_VALIDATION].sort_values("round")
    return float(rows[metric].iloc[-1]) if len(rows) and metric in rows else math.nan
