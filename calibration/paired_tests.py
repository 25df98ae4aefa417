"""Is one model better than another, or is it chance? Paired tests, and many of them at once.

Within one training seed the images are what might have been others: ``bootstrap_test`` resamples
them, the same ones for both models. Over seeds it is the training: ``seeds_test`` is Wilcoxon's.
For calibration errors, which are no means over images, see ``fl2ora.calibration.comparison``.

Sources: Efron & Tibshirani, "An introduction to the bootstrap" (1993), ch. 16: resampling under the
null hypothesis. Wilcoxon, "Individual comparisons by ranking methods" (1945). Rüger, "Das maximale
Signifikanzniveau des Tests" (1978): the doubled median of p-values. Holm, "A simple sequentially
rejective multiple test procedure" (1979).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from fl2ora.calibration.binning import Floats

_AT_ONCE = 100  # draws


def bootstrap_test(differences: Floats, *, resamples: int = 4000, seed: int = 0) -> Floats:
    """Return p-values ``(T,)``, two-sided, of mean differences being 0.

    A difference that is 0 for every image has p-value 1; the smallest there can be is
    ``1 / (resamples + 1)``. Where one is not finite it is NaN.

    Args:
        differences: ``(T, N)``: for each of T comparisons, what the first model has more than the
            second on each of N images.
        resamples: draws of N images.
        seed: of the draws.

    Raises:
        ValueError: another shape, or no images.

    >>> bootstrap_test(np.array([[1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])).tolist()
    [1.0, 1.0]
    """
    if differences.ndim != 2 or not differences.shape[1]:
        raise ValueError(f"differences: expected (T, N) with N >= 1, found {differences.shape}")
    n = differences.shape[1]
    usable = np.asarray(np.isfinite(differences).all(axis=1))  # the NLL of an image may be infinite
    differences = np.where(usable[:, None], differences, 0.0)
    mean = differences.mean(axis=1)
    centred = differences - mean[:, None]
    least = np.abs(mean) * (1 - 1e-9)
    rng, extreme = np.random.default_rng(seed), np.zeros(len(mean))
    for start in range(0, resamples, _AT_ONCE):
        count = min(_AT_ONCE, resamples - start)
        times = rng.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64)
        drawn = times @ centred.T / n
        extreme += (np.abs(drawn) >= least).sum(axis=0)
    p_values: Floats = np.where(usable, (1 + extreme) / (1 + resamples), math.nan)
    return p_values


def seeds_test(differences: Sequence[float]) -> float:
    """Return the p-value of Wilcoxon's signed-rank test, two-sided; NaN with fewer than 2 seeds.

    With n seeds it is at least ``2 / 2**n``: five seeds cannot show anything at the level 0.05.

    Args:
        differences: of a metric, first model minus second, one for each training seed.

    >>> round(seeds_test([0.1, 0.2, 0.3, 0.4, 0.5]), 6)
    0.0625
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    if not values.any():
        return 1.0
    from scipy import stats

    with warnings.catch_warnings(action="ignore"):  # of ties, for which it has an approximation
        return float(stats.wilcoxon(values).pvalue)


def merged(p_values: Sequence[float]) -> float:
    """Return one p-value for several of one hypothesis, however they depend on each other.

    It is twice the median, at most 1; of a single one, itself; NaN where one of them is.

    >>> merged([0.01, 0.02, 0.9])
    0.04
    """
    if len(p_values) == 1:
        return float(p_values[0])
    # The upper median: with it the bound holds for an even number too.
    ordered = sorted(p_values)
    if not ordered or any(map(math.isnan, ordered)):
        return math.nan
    return min(1.0, 2 * ordered[len(ordered) // 2])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many there are; those that are NaN do not count.

    Calling significant what is below 0.05 then makes one wrong claim among all of them in at most
    5 % of such tables.

    >>> [round(p, 4) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    found = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        found[place] = highest
    return found
