"""Means of the middle values of every coordinate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.updates import ClientUpdate

_VALUES = 1 << 22  # values sorted at a time, which bounds the memory beside the updates


def mean_of_middle(updates: Sequence[ClientUpdate], cut: int) -> Adapter:
    """Leave out the ``cut`` least and greatest values of every coordinate; average the others.

    Args:
        updates: m of them, in any order.
        cut: less than m / 2.
    """
    return {
        name: _middle([update.adapter[name] for update in updates], cut)
        for name in updates[0].adapter
    }


def _middle(tensors: Sequence[Tensor], cut: int) -> Tensor:
    flat = [tensor.flatten() for tensor in tensors]
    parts = [torch.zeros(0)]
    step = max(1, _VALUES // len(flat))
    for start in range(0, flat[0].numel(), step):
        rows = torch.stack([tensor[start : start + step] for tensor in flat], dim=1)
        ordered = rows.sort(dim=1).values[:, cut : len(flat) - cut]
        parts.append(ordered.double().mean(dim=1).float())
    return torch.cat(parts).view_as(tensors[0])
