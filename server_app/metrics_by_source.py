"""What is reported of sums: metrics with their uncertainty, and the spread over clients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fl2ora.calibration.metrics.table import DEFAULT, Metric
from fl2ora.calibration.significance import spiegelhalter_test
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.calibration.summaries import spread_of, summarise
from fl2ora.calibration.uncertainty import intervals_over_examples
from fl2ora.federated_data.protocols.base import PartMean
from fl2ora.reporting.sources import CLIENTS_TEST, SERVER_TEST, part_source


def pooled_metrics(
    stats: CalibrationStats, resamples: int, metrics: Sequence[Metric] = DEFAULT
) -> dict[str, float]:
    """Return the metrics of pooled data, their intervals, and a test of calibration.

    Args:
        stats: the pooled sums.
        resamples: bootstrap draws over examples; 0 leaves the intervals out.
        metrics: of the run.

    Returns:
        The names of ``summarise``; for each metric that is ``resampled`` its 95 % interval as
        ``<name>_low`` and ``<name>_high``; ``spiegelhalter_z`` and its two-sided ``_p``.
    """
    found = summarise(stats, metrics)
    resampled = [metric for metric in metrics if metric.resampled]
    if resamples and stats.num_examples and resampled:

        def values(drawn: CalibrationStats) -> dict[str, float]:
            return {metric.name: metric.of(drawn) for metric in resampled}

        gaps = {metric.name for metric in resampled if metric.gap}
        intervals = intervals_over_examples(stats, metrics=values, gaps=gaps, resamples=resamples)
        for name, interval in intervals.items():
            found[f"{name}_low"], found[f"{name}_high"] = interval.low, interval.high
    test = spiegelhalter_test(stats)
    found["spiegelhalter_z"], found["spiegelhalter_p"] = test.statistic, test.p_value
    return found


def all_metrics(
    central: Mapping[str, CalibrationStats],
    clients: Mapping[str, CalibrationStats],
    resamples: int,
    suffix: str = "",
    metrics: Sequence[Metric] = DEFAULT,
    means: Sequence[PartMean] = (),
) -> dict[str, dict[str, float]]:
    """Return every source's metrics, each under a name that says which it is.

    Those of the central held-out parts, of means over them, and those of ``client_metrics``.

    Args:
        central: sums of the central parts by their source.
        clients: each client's sums by its key; may be empty.
        resamples: see ``pooled_metrics``.
        suffix: ends every source's name.
        metrics: of the run.
        means: rows over central parts; one that lacks a part is left out.
    """
    found = {source: pooled_metrics(sums, resamples, metrics) for source, sums in central.items()}
    found |= rows_of_means(found, means, SERVER_TEST, metrics)
    found |= client_metrics(clients, resamples, CLIENTS_TEST, metrics)
    return {name + suffix: values for name, values in found.items()}


def rows_of_means(
    found: Mapping[str, Mapping[str, float]],
    means: Sequence[PartMean],
    whose: str,
    metrics: Sequence[Metric] = DEFAULT,
) -> dict[str, dict[str, float]]:
    """Return a row for each mean of whose parts all were measured.

    Args:
        found: metrics by source.
        means: over parts.
        whose: parts these are: ``server-test`` or ``nodes-test``.
        metrics: of the run.
    """
    means_found = {}
    for mean in means:
        rows = [found.get(part_source(part, whose)) for part in mean.parts]
        whole = [row for row in rows if row is not None]
        if rows and len(whole) == len(rows):
            values = mean_of_parts(whole, metrics, harmonic=mean.harmonic)
            means_found[part_source(mean.name, whose)] = values
    return means_found


def mean_of_parts(
    parts: Sequence[Mapping[str, float]],
    metrics: Sequence[Metric] = DEFAULT,
    *,
    harmonic: bool = False,
) -> dict[str, float]:
    """Return the harmonic mean of the parts' accuracies, or plain means of all their metrics.

    Args:
        parts: metrics by name, at least one part.
        metrics: of the run; the mean of one that a part lacks is left out.
        harmonic: which of the two.

    >>> mean_of_parts([{"accuracy": 0.5}, {"accuracy": 1.0}], harmonic=True)
    {'accuracy': 0.6666666666666666}
    """
    if harmonic:
        values = [part.get("accuracy", math.nan) for part in parts]
        if 0 in values:
            return {"accuracy": 0.0}
        mean = len(values) / math.fsum(1 / value for value in values)
        return {} if math.isnan(mean) else {"accuracy": mean}
    columns = {
        metric.name: [part.get(metric.name, math.nan) for part in parts]
        for metric in metrics
        if not metric.beside
    }
    return {
        name: math.fsum(values) / len(values)
        for name, values in columns.items()
        if all(map(math.isfinite, values))
    }


def client_metrics(
    clients: Mapping[str, CalibrationStats],
    resamples: int,
    source: str,
    metrics: Sequence[Metric] = DEFAULT,
) -> dict[str, dict[str, float]]:
    """Return the metrics of the clients' pooled data, and how they spread over the clients.

    ``source`` itself is the pooled data (sums added). ``<source>-mean``, ``-sd`` and ``-worst`` are
    the plain mean, the population standard deviation and the worst of the clients' own values, as
    ``spread_of`` has them; clients without held-out images are left out. One client has no
    standard deviation.

    Args:
        clients: each client's sums by its key; may be empty.
        resamples: see ``pooled_metrics``.
        source: ``clients-test`` where all clients have the global model, ``clients-test-personal``
            where each has its own.
        metrics: of the run.
    """
    pooled: CalibrationStats | None = None
    each: list[dict[str, float]] = []
    for stats in clients.values():  # one at a time: there may be thousands
        if stats.num_examples:
            pooled = stats if pooled is None else pooled + stats
            each.append(summarise(stats, metrics))
    if pooled is None:
        return {}
    found = {source: pooled_metrics(pooled, resamples, metrics)}
    spread = spread_of(each, metrics)
    kinds = {"mean": "-mean", "std": "-sd", "worst": "-worst"}
    if len(each) == 1:
        del kinds["std"]
    for kind, ending in kinds.items():
        keys = {metric.name: f"client_{kind}_{metric.name}" for metric in metrics}
        found[source + ending] = {n: spread[key] for n, key in keys.items() if key in spread}
    return found
