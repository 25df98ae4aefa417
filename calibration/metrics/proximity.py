"""PIECE: calibration error seen separately for typical and for unusual inputs.

Models are often overconfident on inputs far from the training data and underconfident near it; in
ECE the two cancel. PIECE bins by confidence and by proximity:
``sum_{h, b} (n_hb / N) |conf_hb - acc_hb|``, never below the ECE on the same confidence bins.

Federated, it is exact only when all clients share the proximity edges and the reference features:
every client then sends one ``CalibrationStats`` per proximity group, and groups add separately.

Source: Xiong et al., "Proximity-informed calibration for deep neural networks" (2023,
arXiv 2306.04590).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fl2ora.calibration.binning import Floats, Integers
from fl2ora.calibration.metrics.binned import bin_stats, ece_of
from fl2ora.calibration.predictions import ArrayLike
from fl2ora.calibration.stats import CalibrationStats

_QUERIES_AT_ONCE = 1024


def piece(
    probabilities: ArrayLike,
    labels: ArrayLike,
    distances: Floats,
    *,
    num_bins: int = 10,
    num_groups: int = 10,
) -> float:
    """Return PIECE of pooled predictions with quantile proximity groups: exact.

    Args:
        probabilities: ``(N, K)``.
        labels: ``(N,)`` integers.
        distances: ``(N,)`` of each input from the reference data, see ``mean_distance``; any
            monotone proximity such as ``exp(-distance)`` gives the same quantile groups.
        num_bins: confidence bins.
        num_groups: proximity groups, cut at quantiles of ``distances``.
    """
    if not len(distances):
        return math.nan
    group = proximity_group(distances, proximity_edges(distances, num_groups))
    return piece_of(
        [
            bin_stats(probabilities[group == h], labels[group == h], num_bins)
            for h in range(num_groups)
        ]
    )


def piece_of(groups: Sequence[CalibrationStats]) -> float:
    """Return PIECE from one statistics per proximity group; exact from additive sums."""
    counts = [stats.num_examples for stats in groups]
    if not sum(counts):
        return math.nan
    parts = [n * ece_of(stats) for n, stats in zip(counts, groups, strict=True) if n]
    return sum(parts) / sum(counts)


def proximity_edges(distances: Floats, num_groups: int) -> Floats:
    """Return the ``(num_groups - 1,)`` inner quantile edges of ``distances (N,)``, to be shared."""
    edges: Floats = np.quantile(distances, np.arange(1, num_groups) / num_groups)
    return edges


def proximity_group(distances: Floats, edges: Floats) -> Integers:
    """Return ``(N,)``: the right-closed group ``0 .. len(edges)`` of each distance."""
    return np.searchsorted(edges, distances, side="left").astype(np.int64)


def mean_distance(features: Tensor, reference: Tensor, *, neighbours: int = 10) -> Floats:
    """Return the mean Euclidean distance to the nearest reference features.

    Args:
        features: ``(N, D)`` of the inputs to judge.
        reference: ``(R, D)`` of typical inputs, for example the training images.
        neighbours: how many nearest ones to average over; at most R.

    Returns:
        ``(N,)`` float64. The paper's proximity is ``exp(-distance)``.

    Raises:
        ValueError: fewer reference features than ``neighbours``.
    """
    if not 1 <= neighbours <= len(reference):
        raise ValueError(f"neighbours must be 1 .. {len(reference)}, found {neighbours}")
    queries, known = features.detach().double(), reference.detach().double()
    distances = np.empty(len(queries))
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        nearest = torch.cdist(queries[part], known).topk(neighbours, dim=1, largest=False).values
        distances[part] = nearest.mean(dim=1).cpu().numpy()
    return distances
