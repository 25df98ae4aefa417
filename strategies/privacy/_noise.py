"""Clipping a client's change, and Gaussian noise from a seed or from the operating system."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import torch
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter

_MANTISSA = 52


def clipped(adapter: Mapping[str, Tensor], start: Mapping[str, Tensor], clip: float) -> Adapter:
    """Return ``start + change * min(1, clip / |change|)`` in float64, and never more than that.

    Args:
        adapter: a client's, of which all tensors together make the change.
        start: what the client started from; has at least the adapter's names.
        clip: largest L2 norm over all tensors.

    Returns:
        The adapter itself, in float64, where its change is short enough.
    """
    norm = change_norm(adapter, start)
    if norm <= clip:
        return {name: tensor.double() for name, tensor in adapter.items()}
    factor = clip / norm
    return {
        name: start[name].double() + (tensor.double() - start[name].double()) * factor
        for name, tensor in adapter.items()
    }


def change_norm(adapter: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """Return the L2 norm of ``adapter - start`` over all tensors, summed in float64."""
    return norm_of({name: t.double() - start[name].double() for name, t in adapter.items()})


def norm_of(tensors: Mapping[str, Tensor]) -> float:
    """Return the L2 norm over all tensors, summed in float64."""
    return math.sqrt(math.fsum(float(t.double().square().sum()) for t in tensors.values()))


def gaussian_noise(like: Mapping[str, Tensor], std: float, seed: int | None) -> Adapter:
    """Return independent float64 noise in the shapes of ``like``, drawn over the sorted names.

    Args:
        like: names and shapes.
        std: of every coordinate; nothing is drawn if it is 0.
        seed: None: every coordinate from the operating system's source for cryptography, through
            the inverse of the normal distribution. With a seed, whoever knows it can take the
            noise away again.
    """
    names = sorted(like)
    sizes = [like[name].numel() for name in names]
    drawn = std * _standard_normal(sum(sizes), seed) if std else torch.zeros(sum(sizes)).double()
    parts = zip(names, drawn.split(sizes), strict=True)
    return {name: part.reshape(like[name].shape) for name, part in parts}


def _standard_normal(count: int, seed: int | None) -> Tensor:
    """Return ``(count,)`` in float64."""
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, generator=generator, dtype=torch.float64)
    if count == 0:
        return torch.zeros(0, dtype=torch.float64)
    bits = torch.frombuffer(bytearray(os.urandom(8 * count)), dtype=torch.int64)
    uniform = ((bits & (2**_MANTISSA - 1)).double() + 0.5) * 2.0**-_MANTISSA  # never 0 or 1
    normal: Tensor = torch.special.ndtri(uniform)
    return normal
