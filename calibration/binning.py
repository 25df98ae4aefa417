"""The one binning rule every calibration metric uses: equal-width, right-closed bins of [0, 1].

Edges are ``j / M`` in float64, computed once per ``M`` and shared by every client and every
metric: two formulas for "the same" edge may differ in the last bit (``linspace(0, 1, 6)[3]`` is
0.6000000000000001, ``3 / 5`` is 0.6), and one such bit can move a confidence to another bin.

Convention of Guo et al., "On calibration of modern neural networks" (2017, arXiv 1706.04599):
bin ``b`` is ``(b/M, (b+1)/M]``; here the first bin also holds 0, so no value is ever dropped.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@lru_cache(maxsize=64)
def bin_edges(num_bins: int) -> Floats:
    """Return the ``(num_bins + 1,)`` float64 edges ``j / num_bins`` (read-only).

    Raises:
        ValueError: ``num_bins`` is below 1.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, found {num_bins}")
    edges: Floats = np.arange(num_bins + 1, dtype=np.float64) / num_bins
    edges.setflags(write=False)
    return edges


def bin_index(values: Floats, num_bins: int) -> Integers:
    """Return the bin ``0 .. num_bins - 1`` of each value; right-closed, 0 belongs to bin 0.

    Args:
        values: any shape, float64 in [0, 1]. A float32 0.6 is 0.6000000238 and so lies above the
            edge 0.6: convert to float64 before dividing or comparing, not after.
        num_bins: ``M``, at least 1.

    Returns:
        int64 of the same shape.

    Raises:
        ValueError: a value is NaN or outside [0, 1].
    """
    outside = ~((values >= 0) & (values <= 1))
    if outside.any():
        raise ValueError(
            f"{int(outside.sum())} of {values.size} values lie outside [0, 1] or are NaN "
            f"(first: {values[outside].flat[0]})"
        )
    return np.searchsorted(bin_edges(num_bins)[1:-1], values, side="left").astype(np.int64)


def sum_by_bin(index: Integers, weights: Floats | None, num_bins: int) -> Floats:
    """Return ``(num_bins,)`` float64: the count, or the sum of ``weights (N,)``, of each bin."""
    return np.bincount(index, weights=weights, minlength=num_bins).astype(np.float64)
