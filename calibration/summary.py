"""The dozen figures a run reports, from additive statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.metrics.adaptive import adaptive_ece_of, equal_mass_error
from fl2ora.calibration.metrics.binned import (
    accuracy_of,
    confidence_of,
    ece_of,
    mce_of,
    mce_weighted_of,
    over_confidence_of,
    under_confidence_of,
)
from fl2ora.calibration.predictions import ArrayLike, blocks_of_probabilities, scores_of
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summation import sums_of_scores


def summarise(stats: CalibrationStats) -> dict[str, float]:
    """Return the reported figures of the examples in ``stats``; plain floats.

    The same function serves one client, pooled data and added clients. All figures are exact from
    additive sums except ``ace``, which comes from the fine histogram: how far it can be from the
    exact equal-mass ECE is ``fl2ora.calibration.metrics.adaptive.adaptive_ece_of(stats).bound``.

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


def summarise_pooled(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> dict[str, float]:
    """Return ``summarise`` of pooled ``probabilities (N, K)`` and ``labels (N,)``, all exact.

    One pass; ``ace`` is the exact equal-mass ECE, which sums alone cannot give.
    """
    scores = scores_of(blocks_of_probabilities(probabilities, labels))
    spec = StatsSpec(num_bins=num_bins, fine_bins=0)
    summary = summarise(CalibrationStats(spec, **sums_of_scores(scores, spec)))
    summary["ace"] = equal_mass_error(scores.confidence, scores.correct, num_bins)
    return summary


def summarise_clients(clients: Sequence[CalibrationStats]) -> dict[str, float]:
    """Return the spread of client-local figures, under names that never look like pooled ones.

    The mean over clients of a calibration error is another quantity than the error of the pooled
    data, ``summarise(sum(clients))``, and never below it when weighted: errors of opposite sign
    cancel between clients.

    Args:
        clients: the sums of each client; those without examples are left out.

    Returns:
        ``num_clients`` (with examples) and, for every figure of ``summarise``, with ``<figure>``
        its name: ``client_mean_<figure>`` (each client counts once),
        ``client_weighted_mean_<figure>`` (by examples), ``client_std_<figure>`` (population),
        ``client_min_<figure>`` and ``client_max_<figure>``; NaN without clients.
    """
    parts = [summarise(stats) for stats in clients if stats.num_examples]
    result = {"num_clients": float(len(parts))}
    for name in summarise(CalibrationStats.zero(StatsSpec(1, fine_bins=0))):
        if name == "num_examples":
            continue
        values = np.array([part[name] for part in parts])
        weights = np.array([part["num_examples"] for part in parts])
        found = _spread(values, weights) if parts else [math.nan] * 5
        kinds = ("mean", "weighted_mean", "std", "min", "max")
        result |= {f"client_{kind}_{name}": x for kind, x in zip(kinds, found, strict=True)}
    return result


def _spread(values: Floats, weights: Floats) -> list[float]:
    mean = float(values.mean())
    spread = float(values.std()) if math.isfinite(mean) else math.nan
    weighted = float(np.average(values, weights=weights))
    return [mean, weighted, spread, float(values.min()), float(values.max())]
