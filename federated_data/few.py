"""A few images of each class."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def few_of_each(labels: Tensor, shots: int, rng: np.random.Generator) -> Tensor:
    """Return the sorted indices of ``shots`` examples of each class, drawn at random.

    Args:
        labels: ``(N,)`` int64.
        shots: of a class with fewer examples, all are taken.
        rng: the only source of randomness.
    """
    order = torch.from_numpy(rng.permutation(len(labels)))
    by_class = order[torch.argsort(labels[order], stable=True)]
    _, counts = torch.unique_consecutive(labels[by_class], return_counts=True)
    ranks = [torch.arange(int(count)) for count in counts]
    rank = torch.cat(ranks) if ranks else torch.zeros(0, dtype=torch.int64)
    return by_class[rank < shots].sort().values
