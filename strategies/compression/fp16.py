"""Half precision: two bytes a value."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fl2ora.strategies.compression.base import Compression, Layout, Parts, check_finite_part

_TOP = 15  # the largest value is scaled to [2^14, 2^15), half of what float16 holds
_LARGEST = 200  # of an exponent


class FP16(Compression):
    """``v = h 2^e`` with h in float16, rounded to the nearest, and one e for a tensor.

    The scale is what keeps small changes from vanishing: a value is off by at most 2^-11 of itself,
    or 2^-39 of the tensor's largest, whichever is more.
    """

    def layout(self, size: int) -> Layout:
        """Return two bytes a value, and the exponent."""
        return {"half": (torch.float16, size), "exponent": (torch.int32, 1)}

    def encode(self, values: Tensor, rng: torch.Generator) -> Parts:
        """Scale by a power of two and round."""
        _, power = math.frexp(float(values.abs().max()))
        exponent = power - _TOP
        half = (values.double() * 2.0**-exponent).half()
        return {"half": half, "exponent": torch.tensor([exponent], dtype=torch.int32)}

    def decode(self, parts: Mapping[str, Tensor], size: int) -> Tensor:
        """Scale back."""
        half, exponent = check_finite_part(parts, "half"), int(parts["exponent"])
        if abs(exponent) > _LARGEST:
            raise ValueError(f"exponent: expected at most {_LARGEST}, found {exponent}")
        return (half * 2.0**exponent).float()
