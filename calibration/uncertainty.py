"""How far a reported figure can be trusted: bootstrap intervals, over examples or over clients.

*Over examples* answers "what if the clients had held other examples?". The sums are resampled as if
every example were: a multinomial draw of N examples from the cells (bin, right or wrong), each with
its mean confidence. Multinomial rather than Poisson, because it keeps N and so is the ordinary
bootstrap; what it misses is the spread of confidences inside a cell, at most ``1 / (4 M^2)`` of
variance per example. *Over clients* answers "what if other clients had taken part?": whole clients
are drawn with replacement and added, which keeps the likeness of examples within a client and needs
no approximation. With few clients (below about 20) such an interval is too narrow.

Source: Efron & Tibshirani, "An introduction to the bootstrap" (1993), chapters 13 and 14.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from calibration.binning import Floats
from calibration.stats import CalibrationStats
from calibration.summary import summarise

Figures = Callable[[CalibrationStats], dict[str, float]]


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval, in the unit of the figure.

    Attributes:
        value: the figure itself, from all examples.
        low: lower end.
        high: upper end.
        level: nominal coverage, for example 0.95.
        over: what was resampled.
    """

    value: float
    low: float
    high: float
    level: float
    over: Literal["examples", "clients"]


def resample_examples(stats: CalibrationStats, rng: np.random.Generator) -> CalibrationStats:
    """Return the sums of N examples drawn with replacement from those in ``stats``.

    Confidence bins and fine histogram are drawn separately, so a figure should use one of them;
    ``nll`` and ``brier`` get normal noise of their standard error. Class-wise sums cannot be drawn,
    because one example stands in K cells: the result is without them.
    """
    spec = replace(stats.spec, classwise=False)
    drawn = CalibrationStats.zero(spec).__dict__ | {"spec": spec}
    n = stats.num_examples
    if n == 0:
        return CalibrationStats(**drawn)
    wrong, right = _draw_cells(stats.count, stats.correct, n, rng)
    conf_wrong = _ratio(stats.confidence - stats.confidence_correct, stats.count - stats.correct)
    conf_right = _ratio(stats.confidence_correct, stats.correct)
    of_means = (stats.count - stats.correct) * conf_wrong**2 + stats.correct * conf_right**2
    spread = _ratio(stats.confidence_squared - of_means, stats.count)
    drawn["count"], drawn["correct"] = wrong + right, right
    drawn["confidence_correct"] = right * conf_right
    drawn["confidence"] = wrong * conf_wrong + right * conf_right
    drawn["confidence_squared"] = (
        wrong * conf_wrong**2 + right * conf_right**2 + (wrong + right) * spread
    )
    if spec.fine_bins:
        wrong, right = _draw_cells(stats.fine_count, stats.fine_correct, n, rng)
        drawn["fine_count"], drawn["fine_correct"] = wrong + right, right
        drawn["fine_confidence"] = (wrong + right) * _ratio(stats.fine_confidence, stats.fine_count)
    for name in ("nll", "brier"):
        total, squared = float(getattr(stats, name)), float(getattr(stats, f"{name}_squared"))
        error = math.sqrt(max(0.0, squared - total**2 / n)) if math.isfinite(total) else 0.0
        drawn[name] = np.asarray(total + error * rng.standard_normal())
        drawn[f"{name}_squared"] = getattr(stats, f"{name}_squared")
    drawn["spiegelhalter_variance"] = stats.spiegelhalter_variance
    return CalibrationStats(**drawn)


def _draw_cells(
    count: Floats, correct: Floats, n: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return how many wrong and right examples each bin ``(M,)`` gets when N are drawn."""
    cells = np.concatenate([np.maximum(count - correct, 0), correct])
    drawn = rng.multinomial(n, cells / cells.sum()).astype(np.float64)
    return drawn[: len(count)], drawn[len(count) :]


def _ratio(total: Floats, count: Floats) -> Floats:
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)
