"""Selective prediction: does confidence rank right above wrong? AURC, its excess, AUROC, coverage.

Sorted by confidence, highest first, ``risk(i)`` is the error rate of the first i examples and
``AURC = (1/N) sum_i risk(i)``. E-AURC subtracts the AURC of a perfect ranking, all errors last.
Among equal confidences the order is arbitrary and changes the value; here it is averaged over all
orders, so neither the order of the data nor that of clients matters.

AUROC is the chance that a right prediction has a higher confidence than a wrong one, equal ones
counted half. Coverage at risk r is the largest share of the examples, most confident first, whose
error rate is at most r; as it is a threshold that accepts, equal confidences come in together.

Sources: Geifman, Uziel & El-Yaniv, "Bias-reduced uncertainty estimation for deep neural
classifiers" (2019, arXiv 1805.08206): AURC, E-AURC. Hendrycks & Gimpel, "A baseline for detecting
misclassified and out-of-distribution examples" (2017, arXiv 1610.02136): AUROC of confidence.
Geifman & El-Yaniv, "Selective classification for deep neural networks" (2017, arXiv 1705.08500):
coverage at a guaranteed risk.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.metrics.approximation import Approximation
from fl2ora.calibration.predictions import ArrayLike, Scores, blocks_of_probabilities, scores_of
from fl2ora.calibration.stats import CalibrationStats

_SLACK = 1e-9  # of a count: 0.29 * 100 is 28.999999999999996


def aurc(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the AURC of pooled ``probabilities (N, K)`` and ``labels (N,)``: exact.

    NaN without examples. From sums it is only approximate: ``aurc_of``.

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
        >>> round(aurc(p, np.array([0, 1, 0])), 4)  # risks 0, 1/2, 1/3
        0.2778
    """
    return aurc_of_scores(scores_of(blocks_of_probabilities(probabilities, labels)))


def e_aurc(probabilities: ArrayLike, labels: ArrayLike, *, closed_form: bool = False) -> float:
    """Return AURC minus that of a perfect ranking, for pooled predictions: exact.

    Args:
        probabilities: ``(N, K)``.
        labels: ``(N,)`` integers.
        closed_form: subtract the large-N limit ``e + (1 - e) ln(1 - e)``, e the error rate,
            as published, instead of the exact optimum. Noticeably different for small N.
    """
    scores = scores_of(blocks_of_probabilities(probabilities, labels))
    return e_aurc_of_scores(scores, closed_form=closed_form)


def auroc(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the AUROC of confidence as a score for correctness, of pooled predictions: exact.

    1/2 is chance. NaN where nothing is wrong or nothing is right. From sums it is only
    approximate: ``auroc_of``.

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.7, 0.3]])
        >>> auroc(p, np.array([0, 1, 0, 1]))  # of the 4 pairs 2 are in order, 1 is a tie
        0.625
    """
    return auroc_of_scores(scores_of(blocks_of_probabilities(probabilities, labels)))


def coverage_at_risk(probabilities: ArrayLike, labels: ArrayLike, *, risk: float = 0.05) -> float:
    """Return the largest share of pooled predictions that can be kept at this error rate: exact.

    A fraction; 0 where no threshold is good enough, NaN without examples. From sums it is only
    approximate: ``coverage_at_risk_of``.

    Raises:
        ValueError: ``risk`` lies outside [0, 1].

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
        >>> labels = np.array([0, 0, 1, 0])
        >>> coverage_at_risk(p, labels), coverage_at_risk(p, labels, risk=0.25)
        (0.5, 1.0)
    """
    scores = scores_of(blocks_of_probabilities(probabilities, labels))
    return coverage_of_scores(scores, risk=risk)


def aurc_of_scores(scores: Scores) -> float:
    """Return the AURC of the examples behind ``scores``: exact."""
    return _area(*_tie_groups(scores))


def e_aurc_of_scores(scores: Scores, *, closed_form: bool = False) -> float:
    """Return the excess AURC of the examples behind ``scores``: exact."""
    count, errors = _tie_groups(scores)
    return _area(count, errors) - optimal_aurc(count.sum(), errors.sum(), closed_form=closed_form)


def auroc_of_scores(scores: Scores) -> float:
    """Return the AUROC of the examples behind ``scores``: exact."""
    return _ranked(*_tie_groups(scores)).value


def coverage_of_scores(scores: Scores, *, risk: float = 0.05) -> float:
    """Return the coverage at ``risk`` of the examples behind ``scores``: exact."""
    return _covered(*_tie_groups(scores), risk).value


def aurc_of(stats: CalibrationStats) -> Approximation:
    """Return the AURC from the fine histogram, whose bins act as ties: approximate.

    The bound: whatever the order inside a fine bin of n examples with e errors, the errors seen so
    far differ from the average order's by at most ``e (n - e) / n``, each divided by its rank.
    NaN without examples or without a fine histogram.
    """
    count, errors = _fine_groups(stats)
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


def auroc_of(stats: CalibrationStats) -> Approximation:
    """Return the AUROC from the fine histogram, whose bins act as ties: approximate.

    The bound: pairs of a right and a wrong example in one fine bin count half, and may all be in
    order or all be out of it. NaN without examples, without errors, without anything right, or
    without a fine histogram.
    """
    return _ranked(*_fine_groups(stats))


def coverage_at_risk_of(stats: CalibrationStats, *, risk: float = 0.05) -> Approximation:
    """Return the coverage at ``risk`` from the fine histogram: approximate, and never too high.

    Only the edges of fine bins serve as thresholds. The bound: inside a fine bin the right
    examples may come first. NaN without examples or without a fine histogram.

    Raises:
        ValueError: ``risk`` lies outside [0, 1].
    """
    return _covered(*_fine_groups(stats), risk)


def optimal_aurc(num_examples: float, num_errors: float, *, closed_form: bool = False) -> float:
    """Return the AURC of a ranking with all errors last; exact from additive sums."""
    if num_examples == 0:
        return math.nan
    right = num_examples - num_errors
    if not closed_form:
        return _area(np.array([right, num_errors]), np.array([0.0, num_errors]))
    rate = num_errors / num_examples
    return rate + (1 - rate) * math.log1p(-rate) if right > 0 else 1.0


def _tie_groups(scores: Scores) -> tuple[Floats, Floats]:
    """Return count and errors of each distinct confidence, highest first."""
    _, group = np.unique(-scores.confidence, return_inverse=True)
    errors = np.bincount(group, weights=1 - scores.correct)
    return np.bincount(group).astype(np.float64), errors.astype(np.float64)


def _fine_groups(stats: CalibrationStats) -> tuple[Floats, Floats]:
    """Return count and errors of each fine bin that is not empty, highest first."""
    count = stats.fine_count[::-1]
    errors = np.maximum(count - stats.fine_correct[::-1], 0)
    kept = count > 0
    return count[kept], errors[kept]


def _ranked(count: Floats, errors: Floats) -> Approximation:
    """Return the AUROC of groups ``(G,)`` of ties, and half the share of pairs that are ties."""
    right = count - errors
    pairs = float(right.sum() * errors.sum())
    if not pairs:
        return Approximation(math.nan, math.nan)
    tied = float((right * errors).sum())
    errors_below = errors.sum() - np.cumsum(errors)
    return Approximation((float((right * errors_below).sum()) + tied / 2) / pairs, tied / 2 / pairs)


def _covered(count: Floats, errors: Floats, risk: float) -> Approximation:
    """Return the coverage of whole groups ``(G,)``, and what a better order inside could add."""
    if not 0 <= risk <= 1:
        raise ValueError(f"risk must lie in [0, 1], found {risk}")
    n = float(count.sum())
    if not n:
        return Approximation(math.nan, math.nan)
    ends, wrong = np.cumsum(count), np.cumsum(errors)
    kept = float(ends[wrong <= risk * ends + _SLACK].max(initial=0.0))
    # The best order has all right ones of a group first; then k of it may be kept as long as
    # wrong_before + k - right <= risk (before + k).
    right = count - errors
    before, wrong_before = ends - count, wrong - errors
    best = (risk * before + right - wrong_before + _SLACK) / max(1 - risk, _SLACK)
    most = before + np.minimum(count, np.floor(best))
    possible = wrong_before <= risk * (before + right) + _SLACK
    return Approximation(kept / n, max(0.0, float(most[possible].max(initial=0.0)) - kept) / n)


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
