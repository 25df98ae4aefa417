"""Selective prediction: does confidence rank right above wrong? AURC and its excess.

Sorted by confidence, highest first, ``risk(i)`` is the error rate of the first i examples and
``AURC = (1/N) sum_i risk(i)``. E-AURC subtracts the AURC of a perfect ranking, all errors last.
Among equal confidences the order is arbitrary and changes the figure; here it is averaged over all
orders, so neither the order of the data nor that of clients matters.

Source: Geifman, Uziel & El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers"
(2019, arXiv 1805.08206).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.metrics.approximation import Approximation
from fl2ora.calibration.predictions import ArrayLike, blocks_of_probabilities, scores_of
from fl2ora.calibration.stats import CalibrationStats


def aurc(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the AURC of pooled ``probabilities (N, K)`` and ``labels (N,)``: exact.

    NaN without examples. From sums it is only approximate: ``aurc_of``.
    """
    return _area(*_tie_groups(probabilities, labels))


def e_aurc(probabilities: ArrayLike, labels: ArrayLike, *, closed_form: bool = False) -> float:
    """Return AURC minus that of a perfect ranking, for pooled predictions: exact.

    Args:
        probabilities: ``(N, K)``.
        labels: ``(N,)`` integers.
        closed_form: subtract the large-N limit ``e + (1 - e) ln(1 - e)``, e the error rate,
            as published, instead of the exact optimum. Noticeably different for small N.
    """
    count, errors = _tie_groups(probabilities, labels)
    return _area(count, errors) - optimal_aurc(count.sum(), errors.sum(), closed_form=closed_form)


def aurc_of(stats: CalibrationStats) -> Approximation:
    """Return the AURC from the fine histogram, whose bins act as ties: approximate.

    The bound: whatever the order inside a fine bin of n examples with e errors, the errors seen so
    far differ from the average order's by at most ``e (n - e) / n``, each divided by its rank.
    NaN without examples or without a fine histogram.
    """
    count = stats.fine_count[::-1]
    errors = np.maximum(count - stats.fine_correct[::-1], 0)
    kept = count > 0
    count, errors = count[kept], errors[kept]
    if not count.size:
        return Approximation(math.nan, math.nan)
    doubt = (errors * (count - errors) / count * _inverse_ranks(count)).sum() / count.sum()
    return Approximation(_area(count, errors), float(doubt))


def e_aurc_of(stats: CalibrationStats, *, closed_form: bool = False) -> Approximation:
    """Return the excess AURC from the fine histogram: approximate, same bound as ``aurc_of``.

    The optimum needs only the number of errors and is exact.
    """
    area = aurc_of(stats)
    n = float(stats.count.sum())
    best = optimal_aurc(n, n - float(stats.correct.sum()), closed_form=closed_form)
    return Approximation(area.value - best, area.bound)


def optimal_aurc(num_examples: float, num_errors: float, *, closed_form: bool = False) -> float:
    """Return the AURC of a ranking with all errors last; exact from additive sums."""
    if num_examples == 0:
        return math.nan
    right = num_examples - num_errors
    if not closed_form:
        return _area(np.array([right, num_errors]), np.array([0.0, num_errors]))
    rate = num_errors / num_examples
    return rate + (1 - rate) * math.log1p(-rate) if right > 0 else 1.0


def _tie_groups(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Return count and errors of each distinct confidence, highest first."""
    scores = scores_of(blocks_of_probabilities(probabilities, labels))
    _, group = np.unique(-scores.confidence, return_inverse=True)
    errors = np.bincount(group, weights=1 - scores.correct)
    return np.bincount(group).astype(np.float64), errors.astype(np.float64)


def _area(count: Floats, errors: Floats) -> float:
    """Return the mean risk when, inside each group ``(G,)``, errors come at an even rate.

    With n examples, e errors, and P examples, E errors before the group: the k-th member has risk
    ``(E + k e / n) / (P + k)``, which sums over k to ``E h + (e / n)(n - P h)``, h the sum of
    ``1 / (P + k)``.
    """
    kept = count > 0
    count, errors = count[kept], errors[kept]
    if not count.size:
        return math.nan
    before, errors_before = np.cumsum(count) - count, np.cumsum(errors) - errors
    h = _inverse_ranks(count)
    area = errors_before * h + errors / count * (count - before * h)
    return float(area.sum() / count.sum())


def _inverse_ranks(count: Floats) -> Floats:
    """Return ``(G,)``: the sum of ``1 / rank`` over the ranks that each group occupies."""
    ends = torch.from_numpy(np.concatenate([[0.0], np.cumsum(count)]))
    harmonic = torch.special.digamma(ends + 1).numpy()
    return np.diff(harmonic)
