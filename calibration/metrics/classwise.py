"""Calibration of every class's probability, and of the confidence given the predicted class.

ECE looks at the top probability alone. Class-wise ECE asks of every ``p_j`` whether class j occurs
that often; top-label ECE asks it of the confidence among examples predicted as j, so that one
class's overconfidence cannot hide behind another's underconfidence.

Sources: Nixon et al., "Measuring calibration in deep learning" (2019, arXiv 1904.01685): static
(SCE), adaptive (ACE) and thresholded adaptive (TACE) error. Kull et al., "Beyond temperature
scaling" (2019, arXiv 1910.12656): class-wise ECE. Gupta & Ramdas, "Top-label calibration and
multiclass-to-binary reductions" (2022, arXiv 2107.08353).
"""

from __future__ import annotations

import math

import numpy as np

from fl2ora.calibration.metrics.adaptive import equal_mass_error, equal_mass_error_of
from fl2ora.calibration.metrics.approximation import Approximation
from fl2ora.calibration.predictions import ArrayLike, blocks_of_probabilities
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


def classwise_ece_of(stats: CalibrationStats) -> float:
    """Return ``(1/K) sum_j sum_b (n_jb / N) |mean p_j - frequency of j|``; exact from sums.

    Raises:
        ValueError: the statistics were kept without ``classwise``.
    """
    _check_classwise(stats)
    gaps = np.abs(stats.class_probability - stats.class_label)
    return _mean(float(gaps.sum()) / stats.spec.num_classes, stats)


def top_label_ece_of(stats: CalibrationStats) -> float:
    """Return ``sum_j sum_b (n_jb / N) |mean c - mean a|`` over predicted j; exact from sums.

    Never below the ECE on the same bins.

    Raises:
        ValueError: the statistics were kept without ``classwise``.
    """
    _check_classwise(stats)
    return _mean(float(np.abs(stats.top_confidence - stats.top_correct).sum()), stats)


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
    """Return ``classwise_ece_of`` pooled ``probabilities (N, K)`` and ``labels (N,)``."""
    return classwise_ece_of(_class_stats(probabilities, labels, num_bins))


def top_label_ece(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Return ``top_label_ece_of`` pooled ``probabilities (N, K)`` and ``labels (N,)``."""
    return top_label_ece_of(_class_stats(probabilities, labels, num_bins))


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
    blocks = list(blocks_of_probabilities(probabilities, labels))
    if not blocks:
        return math.nan
    p = np.concatenate([block.probabilities.double().cpu().numpy() for block in blocks])
    y = np.concatenate([block.labels.cpu().numpy() for block in blocks])
    total = 0.0
    for j in range(p.shape[1]):
        kept = p[:, j] >= threshold
        if kept.any():
            total += equal_mass_error(p[kept, j], (y[kept] == j).astype(np.float64), num_bins)
    return total / float(p.shape[1])


def _class_stats(probabilities: ArrayLike, labels: ArrayLike, num_bins: int) -> CalibrationStats:
    classes = int(probabilities.shape[1]) if probabilities.ndim == 2 else 1
    spec = StatsSpec(num_bins=num_bins, num_classes=classes, fine_bins=0, classwise=True)
    return CalibrationStats.from_probabilities(probabilities, labels, spec)


def _check_classwise(stats: CalibrationStats) -> None:
    if not stats.spec.classwise:
        raise ValueError(f"class-wise figures need StatsSpec(classwise=True), found {stats.spec}")


def _mean(total: float, stats: CalibrationStats) -> float:
    n = float(stats.count.sum())
    return total / n if n else math.nan
