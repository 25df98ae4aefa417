"""How far a reported figure can be trusted: bootstrap intervals from additive sums.

*Over examples* answers "what if the clients had held other examples?" and needs only the pooled
sums; *over clients* answers "what if other clients had taken part?", keeps the likeness of examples
within a client, and needs the sums of each client (with fewer than about 20 clients it is too
narrow). Every interval says which it is.

A calibration error measures noise as error: that of a perfectly calibrated model is never 0, and
resampling adds noise to noise, so that plain percentile intervals of ECE miss the truth nearly
always when it is small. For such *gap figures* (sums or maxima of per-bin gaps) the lower end is
the value minus the upper quantile of the figure of the noise alone: by the triangle inequality the
noise cannot have raised the figure by more. The upper end is the percentile, which is safe as it
is too high if anything. In simulation
coverage is about nominal, and above it for small errors.

Source: Efron & Tibshirani, "An introduction to the bootstrap" (1993), for the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fl2ora.calibration.metrics.table import DEFAULT
from fl2ora.calibration.resampling import (
    client_resampler,
    gap_noise,
    resample_examples,
    without_classwise,
)
from fl2ora.calibration.stats import CalibrationStats

Over = Literal["examples", "clients"]
Figures = Callable[[CalibrationStats], dict[str, float]]
Draw = Callable[[np.random.Generator], CalibrationStats]

GAP_FIGURES = frozenset(metric.name for metric in DEFAULT if metric.gap)


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
    """Return an interval for every figure, from resampling the examples behind pooled sums.

    Args:
        stats: the pooled (added) sums; class-wise sums cannot be resampled and are left out.
        figures: statistics -> named figures.
        gaps: names of those figures that are gap figures, see the module's text; for one of your
            own, ask whether it is 0 without gaps and never grows by more than the added gaps'.
        resamples: draws; 1,000 take about a second.
        level: nominal coverage in (0, 1).
        seed: of the draws.
    """
    pooled = without_classwise(stats)

    def draw(rng: np.random.Generator) -> CalibrationStats:
        return resample_examples(pooled, rng)

    return _intervals(pooled, draw, figures, gaps, resamples, level, seed, "examples")


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
    are welcome here.
    """
    draw = client_resampler(clients)
    pooled = sum(clients, CalibrationStats.zero(clients[0].spec))
    return _intervals(pooled, draw, figures, gaps, resamples, level, seed, "clients")


def difference_over_examples(
    first: CalibrationStats,
    second: CalibrationStats,
    *,
    figures: Figures = reported_figures,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return percentile intervals of figures of ``first`` minus those of ``second``.

    The two are resampled independently, also where both models saw the same examples; the interval
    then is wider than need be. One below 0 says that ``first`` has the lower figure.
    """
    pair = without_classwise(first), without_classwise(second)
    rng = np.random.default_rng(seed)
    drawn = [
        _minus(*(figures(resample_examples(stats, rng)) for stats in pair))
        for _ in range(resamples)
    ]
    return _percentiles(_minus(*map(figures, pair)), drawn, level, "examples")


def difference_over_clients(
    first: Sequence[CalibrationStats],
    second: Sequence[CalibrationStats],
    *,
    figures: Figures = reported_figures,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return percentile intervals of pooled figures of ``first`` minus those of ``second``.

    Paired: entry k of both is the same client under two models, and both are drawn together.

    Raises:
        ValueError: the two are not of the same length, or empty.
    """
    if len(first) != len(second):
        raise ValueError(f"the clients must be the same, found {len(first)} and {len(second)}")
    draws = client_resampler(first), client_resampler(second)
    rng, twin = np.random.default_rng(seed), np.random.default_rng(seed)  # the same clients
    drawn = [_minus(figures(draws[0](rng)), figures(draws[1](twin))) for _ in range(resamples)]
    pooled = [sum(part, CalibrationStats.zero(part[0].spec)) for part in (first, second)]
    return _percentiles(_minus(*map(figures, pooled)), drawn, level, "clients")


def _intervals(
    pooled: CalibrationStats,
    draw: Draw,
    figures: Figures,
    gaps: Collection[str],
    resamples: int,
    level: float,
    seed: int,
    over: Over,
) -> dict[str, Interval]:
    rng = np.random.default_rng(seed)
    drawn, noise = [], []
    for _ in range(resamples):
        stats = draw(rng)
        drawn.append(figures(stats))
        noise.append(figures(gap_noise(stats, pooled)))
    plain = _percentiles(figures(pooled), drawn, level, over)
    result = {}
    for name, interval in plain.items():
        low = interval.low
        if name in gaps and math.isfinite(interval.value):
            raised = _quantile([figure[name] for figure in noise], (1 + level) / 2)
            low = max(0.0, min(low, interval.value - raised))
        result[name] = Interval(interval.value, low, interval.high, level, over)
    return result


def _percentiles(
    value: dict[str, float], drawn: Sequence[dict[str, float]], level: float, over: Over
) -> dict[str, Interval]:
    if not drawn or not 0 < level < 1:
        raise ValueError(
            f"resamples must be at least 1 and level in (0, 1), found {len(drawn)} and {level}"
        )
    result = {}
    for name, figure in value.items():
        values = [each[name] for each in drawn]
        ends = (_quantile(values, (1 - level) / 2), _quantile(values, (1 + level) / 2))
        result[name] = Interval(figure, *ends, level, over)
    return result


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share, method="nearest"))  # no arithmetic: NLL may be infinite


def _minus(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {name: first[name] - second[name] for name in first}
