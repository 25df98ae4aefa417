"""How far a reported figure can be trusted: intervals from additive sums.

*Over examples* answers "what if the clients had held other examples?" and needs only the pooled
sums; *over clients* answers "what if other clients had taken part?", keeps the likeness of examples
within a client, and needs the sums of each client (with fewer than about 20 clients it is too
narrow). Every interval says which it is. Neither compares two models: the difference of two ECEs
has a bias of its own, see ``fl2ora.calibration.comparison``.

Over examples each reported figure has the method that holds where errors are rare: accuracy that
of Clopper and Pearson, calibration errors that of ``fl2ora.calibration.bin_intervals`` (which names
what they are intervals of), means a normal interval that allows for an error not yet seen. Other
figures are drawn again from the sums. Over clients all are, and no interval is narrower than over
examples.

A calibration error measures noise as error: that of a perfectly calibrated model is never 0, and
resampling adds noise to noise. For such *gap figures* (sums or maxima of per-bin gaps) the lower
end is the value minus the upper quantile of the figure of the noise alone: by the triangle
inequality noise cannot have raised the figure by more.

Source: Efron & Tibshirani, "An introduction to the bootstrap" (1993), for the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from scipy import special

from fl2ora.calibration.bin_intervals import FIGURES, gap_intervals, proportion_interval
from fl2ora.calibration.binning import Floats
from fl2ora.calibration.metrics.table import DEFAULT, METRICS
from fl2ora.calibration.resampling import (
    client_resampler,
    equal_mass_sums,
    gap_noise,
    resample_examples,
    without_classwise,
)
from fl2ora.calibration.stats import CalibrationStats

Over = Literal["examples", "clients"]
Figures = Callable[[CalibrationStats], dict[str, float]]
Draw = Callable[[np.random.Generator], CalibrationStats]
Ends = dict[str, tuple[float, float]]

GAP_FIGURES = frozenset(metric.name for metric in DEFAULT if metric.gap)
"""Figures that are 0 without gaps and grow by no more than the figure of the gaps added."""

OTHER_DRAWS = 300
"""The most draws for figures without a method of their own, which are computed once a draw."""

_OF_GROUPS = {  # the same figure of equal-mass groups
    "ace": "ece",
    "mce_equal_mass": "mce",
}
_SAME_TRUTH = {"debiased_ce": "rmsce"}  # one estimand, two estimates


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval, in the unit of the figure.

    Attributes:
        value: the figure itself, from all examples.
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


def reported_figures(stats: CalibrationStats) -> dict[str, float]:
    """Return the default metrics that can be resampled."""
    return {metric.name: metric.of(stats) for metric in DEFAULT if metric.resampled}


def intervals_over_examples(
    stats: CalibrationStats,
    *,
    figures: Figures = reported_figures,
    gaps: Collection[str] = GAP_FIGURES,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return an interval for every figure, as if other examples had been drawn.

    Args:
        stats: the pooled (added) sums; class-wise sums cannot be resampled and are left out.
        figures: statistics -> named figures. One that has the name and the value of a metric with
            a method of its own gets that, at no cost worth mentioning; if there are others, all
            are computed ``OTHER_DRAWS`` times.
        gaps: names of those figures that are gap figures, see the module's text; for one of your
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
    values = figures(pooled)
    ends = _direct(pooled, values, resamples, level, seed)
    if values.keys() - ends.keys():

        def draw(rng: np.random.Generator) -> CalibrationStats:
            return resample_examples(pooled, rng)

        ends = _drawn(pooled, draw, figures, gaps, resamples, level, seed) | ends
    return {name: Interval(value, *ends[name], level, "examples") for name, value in values.items()}


def intervals_over_clients(
    clients: Sequence[CalibrationStats],
    *,
    figures: Figures = reported_figures,
    gaps: Collection[str] = GAP_FIGURES,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return an interval for every figure of the pooled data, from resampling whole clients.

    Arguments as for ``intervals_over_examples``, with the sums of each client; class-wise figures
    are welcome here. Where a figure has an interval over examples, this one holds it: clients that
    are all alike are no evidence of certainty.

    Raises:
        ValueError: no clients, no draws, or the level is out of range.
    """
    _check(resamples, level)
    draw = client_resampler(clients)
    pooled = sum(clients, CalibrationStats.zero(clients[0].spec))
    values = figures(pooled)
    ends = _drawn(pooled, draw, figures, gaps, resamples, level, seed)
    for name, (low, high) in _direct(pooled, values, resamples, level, seed).items():
        ends[name] = min(low, ends[name][0]), max(high, ends[name][1])
    return {name: Interval(value, *ends[name], level, "clients") for name, value in values.items()}


def _direct(
    stats: CalibrationStats, values: dict[str, float], resamples: int, level: float, seed: int
) -> Ends:
    """Return the ends of those figures that are metrics with a method of their own."""
    n = stats.num_examples
    if n == 0:
        return dict.fromkeys(values, (math.nan, math.nan))
    names = [m.name for m in METRICS if m.name in values and values[m.name] == m.of(stats)]
    wanted = {name: _SAME_TRUTH.get(name, name) for name in names}
    gaps = partial(gap_intervals, draws=resamples, level=level, seed=seed)
    sums = (stats.count, stats.confidence, stats.correct, stats.confidence_squared)
    found = gaps(*sums, {*wanted.values()} & FIGURES.keys())
    groups = [name for name in names if name in _OF_GROUPS]
    if groups and stats.fine_count.size:
        figures = {_OF_GROUPS[name] for name in groups}
        ends = gaps(*equal_mass_sums(stats), figures)
        found |= {name: ends[_OF_GROUPS[name]] for name in groups}
    z = float(special.ndtri((1 + level) / 2))
    if "accuracy" in names:
        found["accuracy"] = proportion_interval(float(stats.correct.sum()), n, level)
    if "confidence" in names:
        mean = values["confidence"]
        spread = z * math.sqrt(max(float(stats.confidence_squared.sum()) / n - mean**2, 0) / n)
        found["confidence"] = mean - spread, min(1.0, mean + spread)
    for name in {"nll", "brier"} & set(names):
        found[name] = _mean_interval(stats, name, z)
    ends = {name: found[truth] for name, truth in wanted.items() if truth in found}
    return {
        name: (min(ends[name][0], values[name]), max(ends[name][1], values[name])) for name in ends
    }


def _mean_interval(stats: CalibrationStats, name: str, z: float) -> tuple[float, float]:
    """Return the normal interval of a mean score, with one error not yet seen in its variance.

    One example more is thought to be wrong, as costly as the confidences say that errors are
    at the least: ``-ln(1 - c)`` and ``2 c^2``, weighted by the chance 1 - c of an error. Without it
    50 sure and right predictions would have a standard error of 0.
    """
    n, total = stats.num_examples, float(getattr(stats, name))
    squared = float(getattr(stats, f"{name}_squared"))
    if not math.isfinite(squared):
        return total / n, total / n
    filled = stats.count > 0
    c = stats.confidence[filled] / stats.count[filled]
    chance = np.maximum(stats.count[filled] * (1 - c), 1e-12)
    cost: Floats = -np.log(np.maximum(1 - c, 1e-12)) if name == "nll" else 2 * c**2
    unseen = float((chance * cost).sum() / chance.sum())
    size = n + 1
    mean = (total + unseen) / size
    variance = max(0.0, (squared + unseen**2) / size - mean**2)
    reach = z * math.sqrt(variance / size)
    return max(0.0, min(total / n, mean) - reach), max(total / n, mean) + reach


def _drawn(
    pooled: CalibrationStats,
    draw: Draw,
    figures: Figures,
    gaps: Collection[str],
    resamples: int,
    level: float,
    seed: int,
) -> Ends:
    """Return percentile ends, those of gap figures with the lower end of the module's text."""
    rng = np.random.default_rng(seed)
    drawn, noise = [], []
    for _ in range(min(resamples, OTHER_DRAWS)):
        stats = draw(rng)
        drawn.append(figures(stats))
        noise.append(figures(gap_noise(stats, pooled)))
    ends: Ends = {}
    for name, value in figures(pooled).items():
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
