"""Intervals over examples of the metrics that have a method of their own.

Accuracy has that of Clopper and Pearson, calibration errors that of ``bin_intervals``, means a
normal interval that allows for an error not yet seen; see ``fl2ora.calibration.uncertainty``.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from scipy import special

from fl2ora.calibration.bin_intervals import BIN_METRICS, gap_intervals, proportion_interval
from fl2ora.calibration.binning import Floats
from fl2ora.calibration.metrics.table import METRICS
from fl2ora.calibration.resampling import equal_mass_sums
from fl2ora.calibration.stats import CalibrationStats

Ends = dict[str, tuple[float, float]]
"""Low and high by the metric's name."""

_OF_GROUPS = {  # the same metric of equal-mass groups
    "ace": "ece",
    "mce_equal_mass": "mce",
}
_SAME_TRUTH = {"debiased_ce": "rmsce"}  # one estimand, two estimates


def direct_intervals(
    stats: CalibrationStats, values: dict[str, float], resamples: int, level: float, seed: int
) -> Ends:
    """Return low and high of those ``values`` that are metrics with a method of their own.

    Args:
        stats: the pooled sums.
        values: by name; one that differs from the metric of that name is not that metric.
        resamples: draws behind the ends of calibration errors.
        level: nominal coverage.
        seed: of those draws.
    """
    n = stats.num_examples
    if n == 0:
        return dict.fromkeys(values, (math.nan, math.nan))
    names = [m.name for m in METRICS if m.name in values and values[m.name] == m.of(stats)]
    wanted = {name: _SAME_TRUTH.get(name, name) for name in names}
    gaps = partial(gap_intervals, draws=resamples, level=level, seed=seed)
    sums = (stats.count, stats.confidence, stats.correct, stats.confidence_squared)
    found = gaps(*sums, {*wanted.values()} & BIN_METRICS.keys())
    groups = [name for name in names if name in _OF_GROUPS]
    if groups and stats.fine_count.size:
        metrics = {_OF_GROUPS[name] for name in groups}
        ends = gaps(*equal_mass_sums(stats), metrics)
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
