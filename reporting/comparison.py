"""Runs of equal settings summarised over their seeds, and what a target cost them: one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

import fl2ora.calibration as calibration  # its names are loaded when used, and torch with them
from fl2ora.calibration.metrics.metric import Metric
from fl2ora.experiment.errors import UserError, listed, nearest, shown
from fl2ora.reporting.collected_runs import IMAGES, Collection, FinishedRun
from fl2ora.reporting.comparison_costs import Target, cost_of
from fl2ora.reporting.sources import CALIBRATED, CLIENTS_TEST, PERSONAL_TEST

ZERO_SHOT = "zero-shot"


def target_from(text: str) -> Target:
    """Return the target that ``metric=value`` names, such as ``accuracy=0.7``.

    Raises:
        UserError: no such metric, or no number.
    """
    name, _, value = text.partition("=")
    directed = {metric.name: metric for metric in calibration.METRICS if metric.better}
    name = name.strip().replace("-", "_")
    if name not in directed:
        raise UserError(
            f"--target: expected metric=value with one of {listed(directed)}, "
            f"found {shown(text)}{nearest(name, directed)}"
        )
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"--target: expected a finite number behind =, found {shown(text)}")
    return Target(directed[name], number)


def summarised(
    collection: Collection,
    metrics: Sequence[Metric],
    source: str,
    target: Target | None = None,
) -> pd.DataFrame:
    """Return a row for every group of runs of equal settings, zero-shot rows first.

    Columns are the axes; ``dataset`` and ``protocol`` of its runs; ``seeds``, how many; each
    metric's mean over the seeds under its name and its sample standard deviation as ``<name>_sd``;
    and with a target ``target_reached`` (runs), ``target_rounds`` and ``target_bytes`` (means over
    those). What is measured is a run's result: after its calibrator, where it has one.

    Args:
        collection: finished runs.
        metrics: to summarise.
        source: of the metrics, as in ``metrics.jsonl``.
        target: what runs may reach, or None.

    Raises:
        UserError: no run has such a source.
    """
    if not any(len(final_row(run, source)) for run in collection.runs):
        known = {str(name) for run in collection.runs for name in run.metrics["source"].unique()}
        raise UserError(
            f"--source: expected one of {listed(known)}, found {source!r}{nearest(source, known)}"
        )
    rows = _zero_shot_rows(collection, metrics, source)
    for labels, runs in collection.groups().items():
        values = [final_row(run, source) for run in runs]
        row: dict[str, object] = dict(zip(collection.axes, labels, strict=True))
        row |= _images(runs[0]) | {"seeds": len(runs)} | _spread(values, metrics)
        rows.append(row | (_target(runs, source, target) if target is not None else {}))
    return pd.DataFrame(rows)


def final_row(run: FinishedRun, source: str) -> Mapping[str, float]:
    """Return the metrics of a run's result: of the last round, calibrated where that was asked.

    Where the clients have no models of their own, the global one is each client's.
    """
    table = run.metrics
    for name in (name for each in _plain(source) for name in (each + CALIBRATED, each)):
        rows = table[table["source"] == name]
        if len(rows):
            return _numbers(rows.sort_values("round").iloc[-1])
    return {}


def zero_shot_row(run: FinishedRun, source: str) -> Mapping[str, float]:
    """Return the metrics of the untuned model, measured by the same code on the same images."""
    table = run.metrics
    for name in _plain(source):
        rows = table[(table["source"] == name) & (table["round"] == 0)]
        if len(rows):
            return _numbers(rows.iloc[0])
    return {}


def _plain(source: str) -> list[str]:
    """Return where a source's metrics may stand, the first one that is there."""
    return [source, CLIENTS_TEST] if source == PERSONAL_TEST else [source]


def blocks(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return which sets of test images there are: rows of one can be compared."""
    return list(dict.fromkeys(zip(table["dataset"], table["protocol"], strict=True)))


def ranks(table: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    """Return 1 for the best row on its images, 2 for the second best; NaN for all others.

    Zero-shot rows take part. Equal rows share a rank; a row alone on its images has none.
    """
    found = pd.Series(math.nan, index=table.index)
    if metric.better is None or metric.name not in table:
        return found
    for _, rows in table.groupby(["dataset", "protocol"]):
        values = rows[metric.name].dropna()
        if len(values) > 1:
            order = values.rank(method="dense", ascending=metric.better == "lower")
            found[order.index] = order.where(order <= 2)
    return found


def _numbers(row: pd.Series[float]) -> dict[str, float]:
    return {
        str(name): float(value)
        for name, value in row.items()
        if name not in ("round", "source") and isinstance(value, int | float)
    }


def naming_axis(axes: Sequence[str]) -> str:
    """Return the axis under which a row says that it is of the untuned model."""
    return next((axis for axis in axes if axis not in IMAGES), axes[0])


def _images(run: FinishedRun) -> dict[str, str]:
    """Return what the run is measured on, by the labels where that is an axis."""
    return {
        name: run.labels.get(name, found) for name, found in zip(IMAGES, run.images, strict=True)
    }


def _spread(values: Sequence[Mapping[str, float]], metrics: Sequence[Metric]) -> dict[str, object]:
    """Return mean and sample standard deviation of each metric; NaN where a run lacks it."""
    found: dict[str, object] = {}
    for metric in metrics:
        series = pd.Series([row.get(metric.name, math.nan) for row in values], dtype=float)
        found[metric.name] = series.mean(skipna=False)
        found[f"{metric.name}_sd"] = series.std(skipna=False)
    return found


def _zero_shot_rows(
    collection: Collection, metrics: Sequence[Metric], source: str
) -> list[dict[str, object]]:
    """Return one row for every model and set of images; of clients' images over the seeds."""
    groups: dict[tuple[str, ...], dict[int, FinishedRun]] = {}
    for run in collection.runs:
        key = (str(run.config.get("model")), *_images(run).values())
        groups.setdefault(key, {}).setdefault(run.seed, run)
    models = {key[0] for key in groups}
    rows = []
    for (model, *_), runs in groups.items():
        values = [found for run in runs.values() if (found := zero_shot_row(run, source))]
        if not values:
            continue
        points = {tuple(each.get(metric.name) for metric in metrics) for each in values}
        if len(points) == 1:  # the same images, whatever the seed
            values = values[:1]
        name = ZERO_SHOT if len(models) == 1 else f"{ZERO_SHOT} {model}"
        row: dict[str, object] = dict.fromkeys(collection.axes, "")
        row |= {naming_axis(collection.axes): name} | _images(next(iter(runs.values())))
        rows.append(row | {"seeds": len(values)} | _spread(values, metrics))
    return rows


def _target(runs: Sequence[FinishedRun], source: str, target: Target) -> dict[str, object]:
    costs = [cost for run in runs if (cost := cost_of(run, source, target)) is not None]
    rounds = pd.Series([cost[0] for cost in costs], dtype=float)
    sizes = pd.Series([cost[1] for cost in costs], dtype=float)
    return {
        "target_reached": len(costs),
        "target_rounds": rounds.mean(),
        "target_bytes": sizes.mean(skipna=False),
    }


def metrics_of(collection: Collection, text: str | None) -> tuple[Metric, ...]:
    """Return the metrics that are named, or those that tables show of what the runs measured.

    Raises:
        UserError: a name is unknown, or no run measured it.
    """
    known = {str(name) for run in collection.runs for name in run.metrics.columns}
    if text is None:
        wanted = {metric.name for metric in calibration.METRICS if metric.shown}
        return tuple(
            metric
            for metric in calibration.METRICS
            if metric.name in known and {metric.name, metric.beside} & wanted
        )
    try:
        chosen = calibration.chosen_metrics(text)
    except ValueError as error:
        raise UserError(f"--metrics: {error}") from None
    if missing := [metric.name for metric in chosen if metric.name not in known]:
        there = listed(metric.name for metric in calibration.METRICS if metric.name in known)
        raise UserError(
            f"--metrics: expected what the runs measured ({there}), found {shown(missing[0])}"
        )
    return chosen
