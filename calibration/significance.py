"""Tests of calibration that need only additive sums: is the model calibrated, up to chance?

The null hypothesis of each: every prediction is right with probability equal to its confidence.
A small p-value is evidence of miscalibration; a large one is no proof of calibration.

Sources: Spiegelhalter, "Probabilistic prediction in patient management and clinical trials" (1986);
Hosmer & Lemeshow, "Goodness of fit tests for the multiple logistic regression model" (1980);
Bröcker & Smith, "Increasing the reliability of reliability diagrams" (2007), for resampling under
the null hypothesis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.metrics.binned import ece_of
from fl2ora.calibration.resampling import resample_calibrated
from fl2ora.calibration.stats import CalibrationStats


@dataclass(frozen=True)
class CalibrationTest:
    """The outcome of a test of calibration.

    Attributes:
        statistic: z, chi-square, or the observed metric.
        p_value: chance of a statistic at least as extreme under perfect calibration.
        expected: mean of the statistic under perfect calibration.
        degrees_of_freedom: of the chi-square; 0 where that has no meaning.
    """

    statistic: float
    p_value: float
    expected: float
    degrees_of_freedom: int = 0


def spiegelhalter_test(stats: CalibrationStats) -> CalibrationTest:
    """Return Spiegelhalter's z, ``sum (a-c)(1-2c) / sqrt(sum (1-2c)^2 c (1-c))``; exact from sums.

    No bins: it asks whether the top-1 Brier score is what the confidences promise. z is positive
    when the score is worse than promised (overconfidence above 1/2), negative when better;
    two-sided p-value from the normal distribution. Errors that leave the score as promised escape
    it, and confidences of exactly 1/2 do not count. NaN without examples; infinite, with p 0, when
    predictions of confidence 0 or 1 alone are found wrong.
    """
    if not stats.num_examples:
        return CalibrationTest(math.nan, math.nan, 0.0)
    promise = stats.correct - stats.confidence
    surplus = 2 * (stats.confidence_squared - stats.confidence_correct)
    deviation = float((promise + surplus).sum())
    variance = float(stats.spiegelhalter_variance)
    if variance <= 0:
        certain = abs(deviation) < 1e-9 * stats.num_examples
        return CalibrationTest(0.0 if certain else math.copysign(math.inf, deviation), certain, 0.0)
    z = deviation / math.sqrt(variance)
    return CalibrationTest(z, math.erfc(abs(z) / math.sqrt(2)), 0.0)


def hosmer_lemeshow_test(
    stats: CalibrationStats, *, min_expected: float = 5.0, fitted_parameters: int = 0
) -> CalibrationTest:
    """Return ``sum_g (A_g - C_g)^2 / (n_g m_g (1 - m_g))``, m the mean confidence; exact from sums.

    Chi-square distributed with as many degrees of freedom as there are groups.

    Args:
        stats: sums over examples that the model was not fitted to.
        min_expected: neighbouring bins are merged until at least so many right and so many wrong
            answers are expected in each group; below about 5 the chi-square is no good
            approximation. 0 keeps every non-empty bin.
        fitted_parameters: subtracted from the degrees of freedom: 2 where the confidences were
            fitted to these very examples, the textbook case.
    """
    count, confidence, correct = _merged(stats, min_expected)
    if not count.size:
        return CalibrationTest(math.nan, math.nan, math.nan)
    variance = confidence * (1 - confidence / count)
    gap = (correct - confidence) ** 2
    known = variance > 1e-12 * count
    surprised = bool((gap[~known] > 1e-12 * count[~known]).any())
    chi2 = math.inf if surprised else float((gap[known] / variance[known]).sum())
    freedom = len(count) - fitted_parameters
    if freedom < 1:
        return CalibrationTest(chi2, math.nan, math.nan, freedom)
    return CalibrationTest(chi2, chi2_tail(chi2, freedom), float(freedom), freedom)


def consistency_test(
    stats: CalibrationStats,
    *,
    metric: Callable[[CalibrationStats], float] = ece_of,
    resamples: int = 1000,
    seed: int = 0,
) -> CalibrationTest:
    """Return how an error metric compares with that of perfectly calibrated models; from sums.

    Outcomes are redrawn with each bin's mean confidence as the chance of being right. ``expected``
    is the metric's floor: what it reads, on so many examples, when nothing is wrong.
    """
    if not stats.num_examples:
        return CalibrationTest(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    drawn = np.array([metric(resample_calibrated(stats, rng)) for _ in range(resamples)])
    value = metric(stats)
    p_value = (1 + int((drawn >= value).sum())) / (1 + resamples)
    return CalibrationTest(value, p_value, float(drawn.mean()))


def chi2_tail(statistic: float, degrees_of_freedom: int) -> float:
    """Return the chance that a chi-square variable exceeds ``statistic``."""
    half = torch.tensor([degrees_of_freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def _merged(stats: CalibrationStats, min_expected: float) -> tuple[Floats, Floats, Floats]:
    """Return count, confidence and correct sums ``(G,)`` of bins merged from the left."""
    groups: list[Floats] = []
    current = np.zeros(3)
    for row in np.stack([stats.count, stats.confidence, stats.correct], axis=1):
        current = current + row
        if current[0] > 0 and min(current[1], current[0] - current[1]) >= min_expected:
            groups.append(current)
            current = np.zeros(3)
    if current[0] > 0:  # a rest too small to stand alone joins the last group
        if groups:
            groups[-1] = groups[-1] + current
        else:
            groups.append(current)
    table = np.array(groups).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]
