"""The metrics of one set of examples, and how they spread over clients, from additive sums."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.metrics.table import DEFAULT, Metric, spec_for
from fl2ora.calibration.predictions import ArrayLike, blocks_of_probabilities, scores_of
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.calibration.summation import sums_of_scores


def summarise(stats: CalibrationStats, metrics: Sequence[Metric] = DEFAULT) -> dict[str, float]:
    """Return ``metrics`` of the examples in ``stats`` by name, as plain floats.

    The same function serves one client, pooled data and added clients. Metrics that need the fine
    histogram are approximate; their ``*_of`` functions give a bound.

    Args:
        stats: the sums, which must hold what the metrics need, see ``spec_for``.
        metrics: of ``METRICS``, for example ``chosen_metrics("default + auroc")``.

    Returns:
        ``num_examples``, then the metrics. Without examples every metric is NaN, without a fine
        histogram those that need it.

    Raises:
        ValueError: a metric needs sums by class and ``stats`` has none.

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.8, 0.2]] * 10)  # ten predictions of confidence 0.8, six of them right
        >>> stats = CalibrationStats.from_probabilities(p, np.array([0] * 6 + [1] * 4))
        >>> found = summarise(stats)
        >>> found["num_examples"], found["accuracy"], round(found["ece"], 4)
        (10.0, 0.6, 0.2)
    """
    return {
        "num_examples": float(stats.num_examples),
        **{metric.name: metric.of(stats) for metric in metrics},
    }


def summarise_pooled(
    probabilities: ArrayLike,
    labels: ArrayLike,
    metrics: Sequence[Metric] = DEFAULT,
    *,
    num_bins: int = 15,
) -> dict[str, float]:
    """Return ``summarise`` of pooled ``probabilities (N, K)`` and ``labels (N,)``, all exact.

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.8, 0.2]] * 10)
        >>> round(summarise_pooled(p, np.array([0] * 6 + [1] * 4))["ace"], 4)
        0.44
    """
    scores = scores_of(blocks_of_probabilities(probabilities, labels))
    from_sums = [metric for metric in metrics if metric.of_scores is None]
    spec = spec_for(from_sums, num_bins, probabilities.shape[1])
    if spec.classwise:
        stats = CalibrationStats.from_probabilities(probabilities, labels, spec)
    else:
        stats = CalibrationStats(spec, **sums_of_scores(scores, spec))
    summary = {"num_examples": float(stats.num_examples)}
    for metric in metrics:
        exact = metric.of_scores
        summary[metric.name] = exact(scores, num_bins) if exact else metric.of(stats)
    return summary


def summarise_clients(
    clients: Sequence[CalibrationStats], metrics: Sequence[Metric] = DEFAULT
) -> dict[str, float]:
    """Return the spread of the clients' own metrics, under names that never look like pooled ones.

    The mean over clients of a calibration error is another quantity than the error of the pooled
    data, ``summarise(sum(clients))``, and never below it when weighted: errors of opposite sign
    cancel between clients.

    Args:
        clients: the sums of each client; those without examples are left out.
        metrics: of ``METRICS``.

    Returns:
        See ``spread_of``.
    """
    parts = [summarise(stats, metrics) for stats in clients if stats.num_examples]
    return spread_of(parts, metrics)


def spread_of(
    parts: Sequence[Mapping[str, float]], metrics: Sequence[Metric] = DEFAULT
) -> dict[str, float]:
    """Return what ``summarise_clients`` does, from what ``summarise`` returns of each client.

    Args:
        parts: of each client with examples; where a metric is NaN, such as AUROC where nothing is
            wrong, those for which it is are left out.
        metrics: of these.

    Returns:
        ``num_clients`` (with examples) and, for every metric, with ``<name>`` its name:
        ``client_mean_<name>`` (each client counts once), ``client_weighted_mean_<name>`` (by
        examples), ``client_std_<name>`` (population; NaN with one client, which has no spread),
        ``client_min_<name>`` and ``client_max_<name>``; NaN without clients. For a metric with a
        direction also ``client_worst_<name>``, and for one that stands beside another its value at
        the client where that other one is worst.
    """
    weights = np.array([part["num_examples"] for part in parts])
    columns = {m.name: np.array([part[m.name] for part in parts]) for m in metrics}
    result = {"num_clients": float(len(parts))}
    kinds = ("mean", "weighted_mean", "std", "min", "max")
    for name, values in columns.items():
        found = _spread(values, weights)
        result |= {f"client_{kind}_{name}": x for kind, x in zip(kinds, found, strict=True)}
    for metric in metrics:
        lead = next((other for other in metrics if other.name == metric.beside), metric)
        if lead.better is not None:
            at = _worst(columns[lead.name], lead)
            worst = math.nan if at is None else float(columns[metric.name][at])
            result[f"client_worst_{metric.name}"] = worst
    return result


def _spread(values: Floats, weights: Floats) -> list[float]:
    known = ~np.isnan(values)
    values, weights = values[known], weights[known]
    if not values.size:
        return [math.nan] * 5
    mean = float(values.mean())
    spread = float(values.std()) if math.isfinite(mean) and values.size > 1 else math.nan
    weighted = float(np.average(values, weights=weights))
    return [mean, weighted, spread, float(values.min()), float(values.max())]


def _worst(values: Floats, metric: Metric) -> int | None:
    """Return which client has the worst value, the first of equals; None where all are NaN."""
    if np.isnan(values).all():
        return None
    return int(np.nanargmax(values) if metric.better == "lower" else np.nanargmin(values))
