"""How far a reported metric can be trusted: intervals from additive sums.

*Over examples* answers "what if the clients had held other examples?" and needs only the pooled
sums; *over clients* answers "what if other clients had taken part?", keeps the likeness of examples
within a client, and needs the sums of each client (with fewer than about 20 clients it is too
narrow). Every interval says which it is. Neither compares two models: the difference of two ECEs
has a bias of its own, see ``fl2ora.calibration.comparison``.

Over examples each reported metric has the method that holds where errors are rare: accuracy that
of Clopper and Pearson, calibration errors that of ``fl2ora.calibration.bin_intervals`` (which names
what they are intervals of), means a normal interval that allows for an error not yet seen. Other
metrics are drawn again from the sums. Over clients all are, and no interval is narrower than over
examples.

A calibration error measures noise as error: that of a perfectly calibrated model is never 0, and
resampling adds noise to noise. For such *gap metrics* (sums or maxima of per-bin gaps) the lower
end is the value minus the upper quantile of the metric of the noise alone: by the triangle
inequality noise cannot have raised the metric by more.

Source: Efron & Tibshirani, "An introduction to the bootstrap" (1993), for the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fl2ora.calibration.direct_intervals import Ends, direct_intervals
from fl2ora.calibration.metrics.table import DEFAULT
from fl2ora.calibration.resampling import (
    client_resampler,
    gap_noise,
    resample_examples,
    without_classwise,
)
from fl2ora.calibration.stats import CalibrationStats

Over = Literal["examples", "clients"]
Metrics = Callable[[CalibrationStats], dict[str, float]]
Draw = Callable[[np.random.Generator], CalibrationStats]

GAP_METRICS = frozenset(metric.name for metric in DEFAULT if metric.gap)
"""Metrics that are 0 without gaps and grow by no more than the metric of the gaps added."""

OTHER_DRAWS = 300
"""The most draws for metrics without a method of their own, which are computed once a draw."""


@dataclass(frozen=True)
class Interval:
    """A metric with its confidence interval, in the unit of the metric.

    Attributes:
        value: the metric itself, from all examples.
        low: lower end.
        high: upper end.
        level: nominal coverage, for example 0.95.
        over: what was resampled, ``"examples"`` or ``"clients"``.
    """

    value: float
    low: float
    high: float
    level: float
    over: Over


def reported_metrics(stats: CalibrationStats) -> dict[str, float]:
    """Return the default metrics that can be resampled."""
    return {metric.name: metric.of(stats) for metric in DEFAULT if metric.resampled}


def intervals_over_examples(
    stats: CalibrationStats,
    *,
    metrics: Metrics = reported_metrics,
    gaps: Collection[str] = GAP_METRICS,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return an interval for every metric, as if other examples had been drawn.

    Args:
        stats: the pooled (added) sums; class-wise sums cannot be resampled and are left out.
        metrics: statistics -> named metrics. One that has the name and the value of a metric with
            a method of its own gets that, at no cost worth mentioning; if there are others, all
            are computed ``OTHER_DRAWS`` times.
        gaps: names of those metrics that are gap metrics, see the module's text; for one of your
            own, ask whether it is 0 without gaps and never grows by more than the added gaps'.
        resamples: draws; the ends vary with the seed by about 1 % of the width at 4,000.
        level: nominal coverage in (0, 1).
        seed: of the draws. Equal sums give equal ends, on any machine.

    Raises:
        ValueError: no draws, or the level is out of range.

    Examples:
        Fifty predictions of confidence 0.99, all right, do not prove perfection:

        >>> p = np.array([[0.99, 0.01]] * 50)
        >>> stats = CalibrationStats.from_probabilities(p, np.zeros(50, int))
        >>> found = intervals_over_examples(stats)
        >>> round(found["ece"].value, 3), found["ece"].low, round(found["ece"].high, 3)
        (0.01, 0.0, 0.038)
        >>> round(found["accuracy"].low, 3), found["accuracy"].high
        (0.929, 1.0)
    """
    _check(resamples, level)
    pooled = without_classwise(stats)
    values = metrics(pooled)
    ends = direct_intervals(pooled, values, resamples, level, seed)
    if values.keys() - ends.keys():

        def draw(rng: np.random.Generator) -> CalibrationStats:
            return resample_examples(pooled, rng)

        ends = _drawn(pooled, draw, metrics, gaps, resamples, level, seed) | ends
    return {name: Interval(value, *ends[name], level, "examples") for name, value in values.items()}


def intervals_over_clients(
    clients: Sequence[CalibrationStats],
    *,
    metrics: Metrics = reported_metrics,
    gaps: Collection[str] = GAP_METRICS,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return an interval for every metric of the pooled data, from resampling whole clients.

    Arguments as for ``intervals_over_examples``, with the sums of each client; class-wise metrics
    are welcome here. Where a metric has an interval over examples, this one holds it: clients that
    are all alike are no evidence of certainty.

    Raises:
        ValueError: no clients, no draws, or the level is out of range.
    """
    _check(resamples, level)
    draw = client_resampler(clients)
    pooled = sum(clients, CalibrationStats.zero(clients[0].spec))
    values = metrics(pooled)
    ends = _drawn(pooled, draw, metrics, gaps, resamples, level, seed)
    for name, (low, high) in direct_intervals(pooled, values, resamples, level, seed).items():
        ends[name] = min(low, ends[name][0]), max(high, ends[name][1])
    return {name: Interval(value, *ends[name], level, "clients") for name, value in values.items()}


def _drawn(
    pooled: CalibrationStats,
    draw: Draw,
    metrics: Metrics,
    gaps: Collection[str],
    resamples: int,
    level: float,
    seed: int,
) -> Ends:
    """Return percentile ends, those of gap metrics with the lower end of the module's text."""
    rng = np.random.default_rng(seed)
    drawn, noise = [], []
    for _ in range(min(resamples, OTHER_DRAWS)):
        stats = draw(rng)
        drawn.append(metrics(stats))
        noise.append(metrics(gap_noise(stats, pooled)))
    ends: Ends = {}
    for name, value in metrics(pooled).items():
        values = [each[name] for each in drawn]
        low, high = (_quantile(values, (1 + sign * level) / 2) for sign in (-1, 1))
        if name in gaps and math.isfinite(value):
            raised = _quantile([each[name] for each in noise], (1 + level) / 2)
            low = max(0.0, min(low, value - raised))
        ends[name] = low, high
    return ends


def _check(resamples: int, level: float) -> None:
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"resamples must be at least 1 and level in (0, 1), found {resamples} and {level}"
        )


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share, method="nearest"))  # no arithmetic: NLL may be infinite
