"""Pillow's filters that torch does not have, as matrices: nearest, Lanczos, box and Hamming.

After Pillow's ``src/libImaging/Resample.c`` and, for nearest, ``Geometry.c``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

NEAREST, LANCZOS, BOX, HAMMING = 0, 1, 4, 5


def scaled_as_pillow(pixels: Tensor, target: tuple[int, int], resample: int) -> Tensor:
    """Scale ``pixels (B, C, H, W)`` in [0, 1] to ``target``, height and width, as Pillow does.

    First the width, then the height; after each, values are cut off and rounded to whole bytes.

    Args:
        pixels: of images.
        target: height and width.
        resample: Pillow's number of one of the filters here.
    """
    for axis, length in ((-1, target[1]), (-2, target[0])):
        if pixels.shape[axis] == length:
            continue
        weights = _weights(pixels.shape[axis], length, resample).to(pixels.device)
        moved = pixels.movedim(axis, -1).double() @ weights.T
        pixels = ((moved.clamp(0, 1) * 255).round() / 255).float().movedim(-1, axis)
    return pixels


@lru_cache(maxsize=32)
def _weights(length: int, target: int, resample: int) -> Tensor:
    """Return ``(target, length)`` float64: of which old pixels each new one is made."""
    scale = length / target
    weights = torch.zeros((target, length), dtype=torch.float64)
    if resample == NEAREST:
        place = 0.5 * scale
        for new in range(target):
            weights[new, min(int(place), length - 1)] = 1
            place += scale  # added up as Pillow does, rounding errors included
        return weights
    kernel, support = _KERNELS[resample]
    widened = max(scale, 1.0)
    for new in range(target):
        center = (new + 0.5) * scale
        first = max(int(center - support * widened + 0.5), 0)
        end = min(int(center + support * widened + 0.5), length)
        values = [kernel((old - center + 0.5) / widened) for old in range(first, end)]
        weights[new, first:end] = torch.tensor(values, dtype=torch.float64) / math.fsum(values)
    return weights


def _sinc(x: float) -> float:
    return 1.0 if x == 0 else math.sin(math.pi * x) / (math.pi * x)


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3 <= x < 3 else 0.0


def _box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def _hamming(x: float) -> float:
    return _sinc(x) * (0.54 + 0.46 * math.cos(math.pi * x)) if abs(x) < 1 else 0.0


_KERNELS: dict[int, tuple[Callable[[float], float], float]] = {
    LANCZOS: (_lanczos, 3.0),
    BOX: (_box, 0.5),
    HAMMING: (_hamming, 1.0),
}
