"""What a comparison knows of one model: its error by bin, from sums over examples or clients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.error_difference import Side
from fl2ora.calibration.stats import CalibrationStats


def side_of_sums(
    count: Floats,
    confidence: Floats,
    correct: Floats,
    count_squares: Floats,
    gap_squares: Floats,
    cluster: Floats | None = None,
    units: Floats | None = None,
) -> Side:
    """Return what is known of one model from sums over its units by bin, all ``(M,)``.

    Args:
        count: ``sum_u n_u``.
        confidence: of c.
        correct: of a.
        count_squares: ``sum_u n_u^2``.
        gap_squares: ``sum_u g_u^2``.
        cluster: variance of the mean gap between units; None where units are examples.
        units: ``(U, M)`` the counts themselves; likewise.
    """
    pairs = count**2 - count_squares
    index = np.flatnonzero(pairs > 0)
    n, total = count[index], float(count.sum())
    gap = confidence[index] - correct[index]
    weight = n / total if total else n
    rate = (correct[index] + 0.5) / (n + 1)
    square = float((weight * (gap**2 - gap_squares[index]) / pairs[index]).sum())
    return Side(
        index=index,
        num_bins=len(count),
        total=total,
        weight=weight,
        count=n,
        confidence=confidence[index] / n,
        gap=gap / n,
        least=rate * (1 - rate),
        cluster=np.zeros_like(n) if cluster is None else cluster[index],
        inflation=n**2 / pairs[index],
        unit_weight=None if units is None else units[:, index] / total,
        square=square if index.size else math.nan,
    )


def side_of_clients(clients: Sequence[CalibrationStats], m: int) -> tuple[Side, Floats, int]:
    """Return one model, its clients' gap sums off the pooled gap ``(U, M)``, and how many count."""
    names = ("count", "confidence", "correct")
    tables = [np.array([getattr(c, n) for c in clients]).reshape(-1, m) for n in names]
    count, confidence, correct = tables
    gap, used = confidence - correct, int((count.sum(axis=1) > 0).sum())
    total = count.sum(axis=0)
    rest = gap - count * ratio(gap.sum(axis=0), total)
    side = side_of_sums(
        total,
        confidence.sum(axis=0),
        correct.sum(axis=0),
        (count**2).sum(axis=0),
        (gap**2).sum(axis=0),
        cluster=used / max(used - 1, 1) * ratio((rest**2).sum(axis=0), total**2),
        units=count,
    )
    return side, rest, used


def ratio(part: Floats, whole: Floats) -> Floats:
    """Return ``part / whole``, 0 where ``whole`` is not above 0."""
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)
