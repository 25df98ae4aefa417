"""Intervals of the metrics of confidence bins that do not collapse where errors are rare.

The estimand is the *binned* error: the metric at the true weight, mean confidence and accuracy of
the bins at hand. (The error without bins can only be larger, and no data bounds it.) With w_b, s_b
the weight and the gap (confidence minus accuracy) of a bin and F the metric:

- the upper end is the quantile of F where accuracies are drawn from their Jeffreys posterior,
  ``Beta(A + 1/2, n - A + 1/2)``;
- the lower end is the value minus the quantile of what noise alone makes of F. As F is 0 without
  gaps and grows by no more than F of the gaps that are added, noise cannot have raised it by more.
  Noise is drawn twice and the larger quantile counts: with accuracies as the outcomes show them,
  drawn in by half an example, and as the confidences promise them. With the observed rates alone
  a bin without a single error would have no noise; with the promised rates the end is above 0
  only where a test of calibration fails.

All draws come from one fixed table of numbers by way of quantile functions: a change in the last
bit of a sum changes an end in its last bits, whatever the machine.

Sources: Brown, Cai & DasGupta, "Interval estimation for a binomial proportion" (2001): Jeffreys.
Bröcker & Smith, "Increasing the reliability of reliability diagrams" (2007): drawing under
calibration. McKay, Beckman & Conover (1979): the stratified (Latin hypercube) table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import lru_cache

import numpy as np
from scipy import special

from fl2ora.calibration.binning import Floats, Integers

BinMetric = Callable[[Floats, Floats], Floats]
"""Maps weights ``(D, B)`` and gaps ``(D, B)`` to the metric of every draw, ``(D,)``."""

BIN_METRICS: dict[str, BinMetric] = {
    "ece": lambda w, s: (w * np.abs(s)).sum(axis=1),
    "mce": lambda w, s: np.abs(s).max(axis=1),
    "mce_weighted": lambda w, s: (w * np.abs(s)).max(axis=1),
    "rmsce": lambda w, s: np.sqrt((w * s**2).sum(axis=1)),
    "average_ce": lambda w, s: np.abs(s).mean(axis=1),
    "over_confidence": lambda w, s: (w * np.maximum(s, 0)).sum(axis=1),
    "under_confidence": lambda w, s: (w * np.maximum(-s, 0)).sum(axis=1),
}
"""Metrics of bins by name, each 0 without gaps and subadditive in them."""

_NODES = special.ndtr(np.linspace(-6, 6, 241))


def gap_intervals(
    count: Floats,
    confidence: Floats,
    correct: Floats,
    squares: Floats,
    names: Collection[str],
    *,
    draws: int,
    level: float,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return low and high of the ``BIN_METRICS`` in ``names``.

    Args:
        count: ``(M,)`` whole numbers, examples of every bin.
        confidence: ``(M,)`` sums of c.
        correct: ``(M,)`` sums of a, in [0, count].
        squares: ``(M,)`` sums of c^2.
        names: which metrics.
        draws: D.
        level: nominal coverage.
        seed: of the table of numbers.
    """
    filled = np.flatnonzero(count > 0)
    n, total = count[filled], float(count.sum())
    promised, shown = confidence[filled] / n, (correct[filled] + 0.5) / (n + 1)
    gap = promised - correct[filled] / n
    ranks, normals, others = _table(draws, len(count), seed)
    places, normal, other = ranks[:, filled], normals[:, filled], others[:, filled]
    unsure = np.sqrt(np.maximum(squares[filled] / n - promised**2, 0) / n) * other
    weight = n / total
    root = np.sqrt(weight)
    swing = root * normal - weight * (normal @ root)[:, None]  # covariance of shares, times N
    weights = np.maximum(weight + swing / math.sqrt(total), 0)
    drawn = promised + unsure - _posterior(n, correct[filled], places, draws)
    rates = (shown, np.clip(promised, 0, 1))
    noises = [unsure + _noise(n, rate, places, draws) for rate in rates]
    upper, result = (1 + level) / 2, {}
    for name in names:
        metric = BIN_METRICS[name]
        value = float(metric(weight[None], gap[None])[0])
        shift = metric(weights, gap[None]) - value
        raised = max(float(np.quantile(metric(weight, z) + shift, upper)) for z in noises)
        high = float(np.quantile(metric(weights, drawn), upper))
        result[name] = (max(0.0, value - raised), max(value, high))
    return result


def proportion_interval(correct: float, count: float, level: float) -> tuple[float, float]:
    """Return the exact interval of Clopper & Pearson (1934) of a proportion.

    >>> [round(end, 4) for end in proportion_interval(50, 50, 0.95)]
    [0.9289, 1.0]
    """
    tail, wrong = (1 - level) / 2, count - correct
    low = float(special.betaincinv(correct, wrong + 1, tail)) if correct > 0 else 0.0
    high = float(special.betaincinv(correct + 1, wrong, 1 - tail)) if wrong > 0 else 1.0
    return low, high


@lru_cache(maxsize=8)
def _table(draws: int, columns: int, seed: int) -> tuple[Integers, Floats, Floats]:
    """Return ranks ``(D, M)``, each column an order of 0 .. D - 1, and twice normals ``(D, M)``."""
    rng = np.random.default_rng(seed)
    ranks = np.argsort(rng.random((draws, columns)), axis=0, kind="stable")
    return ranks, rng.standard_normal((draws, columns)), rng.standard_normal((draws, columns))


def _posterior(count: Floats, correct: Floats, places: Integers, draws: int) -> Floats:
    """Return accuracies ``(D, B)`` from their Jeffreys posterior."""
    at = special.ndtri((np.arange(draws) + 0.5) / draws)
    nodes = special.ndtri(_NODES)
    columns = []
    for b, (n, a) in enumerate(zip(count, correct, strict=True)):
        values = special.betaincinv(a + 0.5, n - a + 0.5, _NODES)
        columns.append(np.interp(at, nodes, values)[places[:, b]])
    return np.stack(columns, axis=1)


def _noise(count: Floats, rate: Floats, places: Integers, draws: int) -> Floats:
    """Return gaps ``(D, B)`` of ``Binomial(n, rate) / n`` outcomes from ``rate``."""
    at = (np.arange(draws) + 0.5) / draws
    columns = []
    for b, (size, p) in enumerate(zip(count, rate, strict=True)):
        n = round(float(size))
        reach = 10 * math.sqrt(n * p * (1 - p)) + 30
        low, high = max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach))
        cumulative = special.bdtr(np.arange(low, high), n, p)
        right = low + np.searchsorted(cumulative, at)
        columns.append((p - right / n)[places[:, b]])
    return np.stack(columns, axis=1)
