"""Distances between updates, over all tensors together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.updates import ClientUpdate

_VALUES = 1 << 22  # values multiplied at a time, which bounds the memory beside the updates


def gram(updates: Sequence[ClientUpdate], centre: Adapter) -> Tensor:
    """Return the inner products ``(m, m)`` of m updates' changes from ``centre``, in float64."""
    products = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    step = max(1, _VALUES // len(updates))
    for name, origin in centre.items():
        flat = [update.adapter[name].flatten() for update in updates]
        for start in range(0, origin.numel(), step):
            part = slice(start, start + step)
            rows = torch.stack([tensor[part] for tensor in flat]).double()
            rows -= origin.flatten()[part].double()
            products.addmm_(rows, rows.T)
    return products


def squared_distances(products: Tensor) -> Tensor:
    """Return ``|u_i - u_j|^2 (m, m)`` from inner products.

    What is lost to cancellation, 1e-12 of the squared norms, counts as zero: equal updates are at
    distance zero exactly.
    """
    norms = products.diagonal()
    sums = norms[:, None] + norms[None, :]
    distances = sums - products - products.T
    return torch.where(distances > 1e-12 * sums, distances, 0.0).fill_diagonal_(0.0)
