"""Is one model better than another, or is it chance? Paired tests, and many of them at once.

Within one training seed the images are what might have been others: ``sign_flip_test`` swaps the
two models at random on each. Over seeds it is the training: ``seeds_test`` is Wilcoxon's. For
calibration errors, which are no means over images, see ``fl2ora.calibration.comparison``.

Sources: Fisher, "The design of experiments" (1935), section 21: swapping within pairs. Wilcoxon,
"Individual comparisons by ranking methods" (1945). Rüger, "Das maximale Signifikanzniveau des
Tests" (1978): the doubled median of p-values. Holm, "A simple sequentially rejective multiple test
procedure" (1979).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from fl2ora.calibration.binning import Floats

_AT_ONCE = 100  # draws
_FEW = 20  # images of which all choices of signs may be tried


def sign_flip_test(differences: Floats, *, resamples: int = 4000, seed: int = 0) -> Floats:
    """Return p-values ``(T,)``, two-sided, of mean differences being 0.

    If neither model is better, each image might as well have seen them the other way round: the
    p-value is the share of all ``2^N`` choices of signs whose mean is as far from 0, or of
    ``resamples`` of them where those are fewer. It holds for however few images if differences are
    symmetric about 0, those of accuracy always (for which it is McNemar's exact test), and for
    many images in any case. A resampling of images does not: of five that all differ by chance in
    one direction it makes proof.

    Args:
        differences: ``(T, N)``: for each of T comparisons, what the first model has more than the
            second on each of N images.
        resamples: most choices of signs.
        seed: of the draws.

    Returns:
        NaN where a difference is not finite; 1 where all are 0.

    Raises:
        ValueError: another shape, or no images.

    >>> sign_flip_test(np.array([[1.0, 1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 0.0, 0.0, 0.0]])).tolist()
    [0.0625, 1.0]
    """
    if differences.ndim != 2 or not differences.shape[1]:
        raise ValueError(f"differences: expected (T, N) with N >= 1, found {differences.shape}")
    n = differences.shape[1]
    usable = np.asarray(np.isfinite(differences).all(axis=1))  # the NLL of an image may be infinite
    differences = np.where(usable[:, None], differences, 0.0)
    least = np.abs(differences.sum(axis=1)) - 1e-9 * np.abs(differences).sum(axis=1)
    every = n <= _FEW and 2**n <= resamples
    count = 2**n if every else resamples
    rng, extreme = np.random.default_rng(seed), np.zeros(len(differences))
    for start in range(0, count, _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, count))
        bits = rows[:, None] >> np.arange(n) & 1 if every else rng.integers(0, 2, (len(rows), n))
        sums = (1.0 - 2.0 * bits) @ differences.T
        extreme += (np.abs(sums) >= least).sum(axis=0)
    # Drawn ones do not hold the signs that were found, which are as likely as any.
    p_values: Floats = extreme / count if every else (1 + extreme) / (1 + count)
    return np.where(usable, p_values, math.nan)


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
