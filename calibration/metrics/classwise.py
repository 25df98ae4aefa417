"""Calibration of every class's probability, and of the confidence given the predicted class.

ECE looks at the top probability alone. Class-wise ECE asks of every ``p_j`` whether class j occurs
that often; top-label ECE asks it of the confidence among examples predicted as j, so that one
class's overconfidence cannot hide behind another's underconfidence. The ``*_by_class`` forms return
the ``(K,)`` vector behind the mean.

Sources: Nixon et al., "Measuring calibration in deep learning" (2019, arXiv 1904.01685): static
(SCE), adaptive (ACE) and thresholded adaptive (TACE) error. Kull et al., "Beyond temperature
scaling" (2019, arXiv 1910.12656): class-wise ECE. Gupta & Ramdas, "Top-label calibration and
multiclass-to-binary reductions" (2022, arXiv 2107.08353).
"""

from __future__ import annotations

import math

import numpy as np

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.metrics.adaptive import equal_mass_error, equal_mass_error_of
from fl2ora.calibration.metrics.approximation import Approximation
from fl2ora.calibration.predictions import ArrayLike, blocks_of_probabilities
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


def classwise_ece_of(stats: CalibrationStats) -> float:
    """Return ``(1/K) sum_j sum_b (n_jb / N) |mean p_j - frequency of j|``; exact from sums.

    Raises:
        ValueError: the statistics were kept without ``classwise``.
    """
    return float(classwise_ece_by_class_of(stats).mean())


def classwise_ece_by_class_of(stats: CalibrationStats) -> Floats:
    """Return ``(K,)``: ``sum_b (n_jb / N) |mean p_j - frequency of j|`` of each class j; exact.

    Their mean is ``classwise_ece_of``. NaN without examples.

    Raises:
        ValueError: the statistics were kept without ``classwise``.
    """
    _check_classwise(stats)
    gaps = np.abs(stats.class_probability - stats.class_label).sum(axis=1)
    return _ratio(gaps, np.full(len(gaps), stats.count.sum()))


def top_label_ece_of(stats: CalibrationStats) -> float:
    """Return ``sum_j sum_b (n_jb / N) |mean c - mean a|`` over predicted j; exact from sums.

    Never below the ECE on the same bins.

    Raises:
        ValueError: the statistics were kept without ``classwise``.
    """
    _check_classwise(stats)
    n = float(stats.count.sum())
    return float(np.abs(stats.top_confidence - stats.top_correct).sum()) / n if n else math.nan


def top_label_ece_by_class_of(stats: CalibrationStats) -> Floats:
    """Return ``(K,)``: the ECE among the examples predicted as each class; exact from sums.

    Weighted with the share predicted as j they sum to ``top_label_ece_of``. NaN for a class that
    is never predicted.

    Raises:
        ValueError: the statistics were kept without ``classwise``.
    """
    _check_classwise(stats)
    gaps = np.abs(stats.top_confidence - stats.top_correct).sum(axis=1)
    return _ratio(gaps, stats.top_count.sum(axis=1))


def classwise_ace_of(stats: CalibrationStats, *, num_groups: int = 15) -> Approximation:
    """Return the equal-mass class-wise error from the ``(K, M)`` sums: approximate.

    The M bins serve as the histogram, so keep many of them (``num_bins=1000``); the bound is the
    mean over classes of that of ``equal_mass_error_of``.

    Raises:
        ValueError: the statistics were kept without ``classwise``.
    """
    _check_classwise(stats)
    tables = (stats.class_count, stats.class_probability, stats.class_label)
    parts = [equal_mass_error_of(*row, num_groups) for row in zip(*tables, strict=True)]
    value, bound = np.mean(parts, axis=0)
    return Approximation(float(value), float(bound))


def classwise_ece(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Return ``classwise_ece_of`` pooled ``probabilities (N, K)`` and ``labels (N,)``.

    Example:
        >>> import numpy as np
        >>> p, labels = np.array([[0.5, 0.2, 0.3]] * 2), np.array([0, 1])
        >>> round(classwise_ece(p, labels), 4)
        0.2
        >>> classwise_ece_by_class(p, labels).round(4).tolist()
        [0.0, 0.3, 0.3]
    """
    return classwise_ece_of(_class_stats(probabilities, labels, num_bins))


def classwise_ece_by_class(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> Floats:
    """Return ``classwise_ece_by_class_of`` pooled ``probabilities (N, K)``, ``labels (N,)``."""
    return classwise_ece_by_class_of(_class_stats(probabilities, labels, num_bins))


def top_label_ece(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Return ``top_label_ece_of`` pooled ``probabilities (N, K)`` and ``labels (N,)``.

    Example:
        >>> import numpy as np
        >>> p = np.array([[0.8, 0.2]] * 5 + [[0.2, 0.8]] * 5)  # class 0 all right, 1 in 3 of 5
        >>> round(top_label_ece(p, np.array([0] * 5 + [1, 1, 1, 0, 0])), 4)
        0.2
    """
    return top_label_ece_of(_class_stats(probabilities, labels, num_bins))


def top_label_ece_by_class(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> Floats:
    """Return ``top_label_ece_by_class_of`` pooled ``probabilities (N, K)``, ``labels (N,)``."""
    return top_label_ece_by_class_of(_class_stats(probabilities, labels, num_bins))


def classwise_ace(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, threshold: float = 0.0
) -> float:
    """Return Nixon's ACE, or TACE with a ``threshold``, of pooled predictions: exact.

    For every class the examples with ``p_j >= threshold`` are cut into ``num_bins`` equal-mass
    groups weighted by their size; a class without any counts 0; the mean is over all K classes.
    Approximate from sums (``classwise_ace_of``), and there without a threshold.

    Args:
        probabilities: ``(N, K)``; one float64 copy is made.
        labels: ``(N,)`` integers.
        num_bins: groups per class.
        threshold: 0 for ACE, 1e-3 for TACE as published.
    """
    errors = classwise_ace_by_class(probabilities, labels, num_bins=num_bins, threshold=threshold)
    return float(errors.mean())


def classwise_ace_by_class(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, threshold: float = 0.0
) -> Floats:
    """Return ``(K,)``: the equal-mass error of each class, whose mean is ``classwise_ace``.

    NaN without examples; 0 for a class without a probability of at least ``threshold``.
    """
    blocks = list(blocks_of_probabilities(probabilities, labels))
    if not blocks:
        return np.full(probabilities.shape[1], math.nan)
    p = np.concatenate([block.probabilities.double().cpu().numpy() for block in blocks])
    y = np.concatenate([block.labels.cpu().numpy() for block in blocks])
    errors: Floats = np.zeros(p.shape[1])
    for j in range(p.shape[1]):
        kept = p[:, j] >= threshold
        if kept.any():
            errors[j] = equal_mass_error(p[kept, j], (y[kept] == j).astype(np.float64), num_bins)
    return errors


def _class_stats(probabilities: ArrayLike, labels: ArrayLike, num_bins: int) -> CalibrationStats:
    classes = int(probabilities.shape[1]) if getattr(probabilities, "ndim", 0) == 2 else 1
    spec = StatsSpec(num_bins=num_bins, num_classes=classes, fine_bins=0, classwise=True)
    return CalibrationStats.from_probabilities(probabilities, labels, spec)


def _check_classwise(stats: CalibrationStats) -> None:
    if not stats.spec.classwise:
        raise ValueError(f"class-wise metrics need StatsSpec(classwise=True), found {stats.spec}")


def _ratio(total: Floats, count: Floats) -> Floats:
    return np.divide(total, count, out=np.full_like(total, math.nan), where=count > 0)
