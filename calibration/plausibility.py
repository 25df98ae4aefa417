"""Can these sums be those of any examples at all? For sums that come from someone else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl2ora.calibration.binning import Floats, bin_edges
from fl2ora.calibration.stats import CalibrationStats

Bools = NDArray[np.bool_]
_SLACK = 1e-6  # of a sum: confidences are float32 before they are summed
_LARGEST_VARIANCE = 1 / 16  # of (1 - 2c)^2 c (1 - c)


def check_plausible(stats: CalibrationStats) -> None:
    """Refuse sums that no set of examples has.

    Counts are whole; no bin has more correct examples than examples; sums of confidences lie within
    their bin's edges; the fine histogram and the tables by class count the same examples; scores
    lie within their range. Sums that pass may still be made up.

    Raises:
        ValueError: names the sum, what was expected and what was found.
    """
    arrays = stats.to_arrays()
    for name, array in arrays.items():
        _demand(name, np.isfinite(array) & (array >= 0), array, "finite and at least 0")
    for name in ("count", "correct", "fine_count", "fine_correct", "top_count", "top_correct"):
        if name in arrays:
            _demand(name, arrays[name] == np.round(arrays[name]), arrays[name], "whole numbers")
    _check_bins("", stats.count, stats.confidence, stats.correct)
    _check_within("confidence_correct", stats.confidence_correct, stats.correct)
    _check_within("confidence_squared", stats.confidence_squared, stats.count, power=2)
    if stats.fine_count.size:
        _check_bins("fine_", stats.fine_count, stats.fine_confidence, stats.fine_correct)
        for part in ("count", "confidence", "correct"):
            _check_total(f"fine_{part}", getattr(stats, f"fine_{part}"), getattr(stats, part))
    if stats.top_count.size:
        _check_total("top_count", stats.top_count, stats.count)
        _check_total("top_correct", stats.top_correct, stats.correct)
        per_class = stats.class_count.sum(axis=1)
        everyone = np.full_like(per_class, stats.count.sum())
        _demand("class_count", np.isclose(per_class, everyone), per_class, "N in every row")
    _check_scores(stats)


def _check_bins(prefix: str, count: Floats, confidence: Floats, correct: Floats) -> None:
    _demand(f"{prefix}correct", correct <= count, correct, "no more than the examples of its bin")
    _check_within(f"{prefix}confidence", confidence, count)


def _check_within(name: str, sums: Floats, count: Floats, power: int = 1) -> None:
    """Each sum is of ``count`` values between its bin's edges, to a power."""
    edges = bin_edges(len(count)) ** power
    slack = _SLACK * (count + 1)
    inside = (sums >= edges[:-1] * count - slack) & (sums <= edges[1:] * count + slack)
    _demand(name, inside, sums, "sums of values within the bins' edges")


def _check_total(name: str, part: Floats, whole: Floats) -> None:
    found, expected = float(part.sum()), float(whole.sum())
    if abs(found - expected) > _SLACK * (expected + 1):
        raise ValueError(f"{name}: expected a total of {expected:.6g}, found {found:.6g}")


def _check_scores(stats: CalibrationStats) -> None:
    n = float(stats.count.sum())
    for name, most in (
        ("brier", 2 * n),
        ("brier_squared", 4 * n),
        ("spiegelhalter_variance", _LARGEST_VARIANCE * n),
    ):
        value = float(getattr(stats, name))
        if value > most * (1 + _SLACK):
            raise ValueError(f"{name}: expected at most {most:.6g}, found {value:.6g}")
    nll, squared = float(stats.nll), float(stats.nll_squared)
    if (n == 0 and nll + squared > 0) or (n and squared * n < nll * nll * (1 - _SLACK)):
        raise ValueError(f"nll_squared: expected at least nll^2 / N, found {squared:.6g}")


def _demand(name: str, holds: Bools, values: Floats, expected: str) -> None:
    if not np.all(holds):
        wrong = float(np.asarray(values)[~np.asarray(holds, dtype=bool)].ravel()[0])
        raise ValueError(f"{name}: expected {expected}, found {wrong:.6g}")
