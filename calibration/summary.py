"""The dozen figures a run reports, from additive statistics."""

from __future__ import annotations

import math

from calibration.metrics.adaptive import adaptive_ece_of
from calibration.metrics.binned import (
    accuracy_of,
    confidence_of,
    ece_of,
    mce_of,
    mce_weighted_of,
    over_confidence_of,
    under_confidence_of,
)
from calibration.stats import CalibrationStats


def summarise(stats: CalibrationStats) -> dict[str, float]:
    """Return the reported figures of the examples in ``stats``; plain floats.

    The same function serves one client, pooled data and added clients. All figures are exact from
    additive sums except ``ace``, which comes from the fine histogram: how far it can be from the
    exact equal-mass ECE is ``calibration.metrics.adaptive.adaptive_ece_of(stats).bound``.

    Returns:
        ``num_examples``; as fractions ``accuracy``, ``confidence`` (mean), ``ece``, ``mce``,
        ``mce_weighted``, ``ace``, ``over_confidence`` and ``under_confidence`` (they sum to
        ``ece``); ``nll`` in nats and ``brier`` in [0, 2], per example. Without examples every
        figure but ``num_examples`` is NaN; without a fine histogram ``ace`` is NaN.
    """
    n = stats.num_examples
    return {
        "num_examples": float(n),
        "accuracy": accuracy_of(stats),
        "confidence": confidence_of(stats),
        "ece": ece_of(stats),
        "mce": mce_of(stats),
        "mce_weighted": mce_weighted_of(stats),
        "ace": adaptive_ece_of(stats).value,
        "nll": float(stats.nll) / n if n else math.nan,
        "brier": float(stats.brier) / n if n else math.nan,
        "over_confidence": over_confidence_of(stats),
        "under_confidence": under_confidence_of(stats),
    }
