"""Averages of a federation's global models over its rounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clip_tuning.adapter import Adapter, as_adapter, check_like


def gaussian_weights(count: int, mean: float, deviation: float) -> Tensor:
    """Return ``(count,)`` float64 weights of rounds 1 to ``count`` that sum to 1.

    PromptSRC's (Khattak et al. 2023, arXiv 2307.06948): a normal density at 1, 2, ..., normalised.
    """
    rounds = torch.arange(1, count + 1, dtype=torch.float64)
    return (-0.5 * ((rounds - mean) / deviation) ** 2).softmax(dim=0)


def weighted_mean(adapters: Sequence[Adapter], weights: Tensor) -> Adapter:
    """Return ``sum_i weights_i adapters_i``, summed in float64.

    Args:
        adapters: at least one, all of the same names and shapes.
        weights: one for each; they should sum to 1.

    Raises:
        ValueError: the numbers differ or are 0.
        AdapterError: names or shapes differ.
    """
    if len(adapters) != len(weights) or not adapters:
        raise ValueError(
            f"weights: expected one for each of at least one adapter, found {len(weights)} for "
            f"{len(adapters)}"
        )
    for index, adapter in enumerate(adapters):
        check_like(adapter, adapters[0], f"adapter {index}")
    return as_adapter(
        {
            name: sum(
                w * adapter[name].double() for w, adapter in zip(weights, adapters, strict=True)
            )
            for name in adapters[0]
        }
    )
