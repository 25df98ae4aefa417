"""Eight bits a value, rounded at random.

QSGD with 127 levels, buckets and their largest value as scale: Alistarh et al. 2017,
arXiv 1610.02132, section 3 and appendix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fl2ora.strategies.compression.base import Compression, Layout, Parts, check_finite_part

_LEVELS = 127


class Int8(Compression):
    """``v_i = s q_i`` with ``s = max_i |v_i| / 127`` of a bucket and q_i rounded at random.

    ``q = floor(v / s + u)`` with u uniform on [0, 1) is unbiased: its mean is v / s. A value is off
    by less than s, so that a bucket of b values loses at most ``b / 127^2`` of its squared norm
    whatever is drawn, and ``b / (4 127^2)`` on average.

    Args:
        bucket: values with a scale of their own, four bytes.
        feedback: keep what rounding left out for the next round; see ``Compression``.
    """

    def __init__(
        self, bucket: Annotated[int, Field(ge=1, le=8192)] = 1024, feedback: bool = True
    ) -> None:
        self.bucket = bucket
        self.feedback = feedback

    def layout(self, size: int) -> Layout:
        """Return a byte a value, and a float32 a bucket."""
        return {
            "levels": (torch.int8, size),
            "scales": (torch.float32, math.ceil(size / self.bucket)),
        }

    def encode(self, values: Tensor, rng: torch.Generator) -> Parts:
        """Round at random."""
        buckets = self._in_buckets(values.double())
        scales = (buckets.abs().amax(dim=1) / _LEVELS).float()
        # The next larger one, so that no value is beyond the last level.
        scales = torch.nextafter(scales, torch.tensor(math.inf))
        drawn = torch.rand(buckets.shape, generator=rng, dtype=torch.float64)
        levels = (buckets / scales.double()[:, None] + drawn).floor()
        return {"levels": levels.flatten()[: len(values)].to(torch.int8), "scales": scales}

    def decode(self, parts: Mapping[str, Tensor], size: int) -> Tensor:
        """Return level times scale."""
        levels, scales = parts["levels"].double(), check_finite_part(parts, "scales")
        if bool((levels.abs() > _LEVELS).any()):
            raise ValueError(f"levels: expected -{_LEVELS} to {_LEVELS}")
        return (self._in_buckets(levels) * scales[:, None]).flatten()[:size].float()

    def _in_buckets(self, values: Tensor) -> Tensor:
        """Return ``(buckets, bucket)``, filled up with zeros."""
        missing = -len(values) % self.bucket
        return torch.nn.functional.pad(values, (0, missing)).reshape(-1, self.bucket)
