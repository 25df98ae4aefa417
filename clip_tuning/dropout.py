"""Dropout that draws the same on every processor, and faster than torch's on most of them.

On Intel's processors torch draws by MKL, on all others one number after the other. Masks of few
numbers are those of such others. Of many, where drawing took a twentieth of a training step, a
number has as few bits as tell whether it is kept; they are read as little-endian processors do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_AT_ONCE = 2**16  # numbers that stay in a processor's cache
_MANY = 2**18  # numbers of a mask, of which fewer bits are drawn


class Dropout(nn.Dropout):
    """``nn.Dropout`` that draws by ``keep_mask`` on the CPU; elsewhere it is as torch's."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` with a share of it zero and the rest scaled up, in training."""
        if not self.training or self.p in (0, 1) or input.device.type != "cpu":
            return super().forward(input)
        return input * keep_mask(input.shape, self.p).to(input.dtype).div_(1 - self.p)


def keep_mask(shape: torch.Size, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Return which of so many values are kept, booleans on the CPU.

    Each is kept where a number of random bits is below ``1 - share``: of 53 bits in masks of up to
    2^18 values, which is how torch draws where it has no MKL. In larger ones it has 16 bits if they
    hold the share exactly, as they do 0.25, else 32.

    Args:
        shape: of the mask.
        share: of values that are dropped, in ``[0, 1)``.
        generator: of the CPU; None for torch's global one.

    >>> torch.manual_seed(0) and keep_mask(torch.Size([2, 3]), share=0.25)
    tensor([[False,  True,  True],
            [False,  True, False]])
    """
    if shape.numel() <= _AT_ONCE:
        return torch.rand(shape, dtype=torch.float64, generator=generator) < 1 - share
    mask = torch.empty(shape, dtype=torch.bool)
    draw = _53_bits if shape.numel() <= _MANY else _few_bits
    for part in mask.view(-1).split(_AT_ONCE):
        draw(part, 1 - share, generator)
    return mask


def _53_bits(mask: Tensor, kept: float, generator: torch.Generator | None) -> None:
    numbers = torch.empty(len(mask), dtype=torch.float64)
    torch.lt(numbers.uniform_(generator=generator), kept, out=mask)


def _few_bits(mask: Tensor, kept: float, generator: torch.Generator | None) -> None:
    bits = 16 if (kept * 2**16).is_integer() else 32
    words = torch.empty(-(-len(mask) * bits // 64), dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    numbers = words.view(torch.int16 if bits == 16 else torch.int32)[: len(mask)]
    # The lowest number is -2^(bits - 1), and the highest is still kept where nothing is dropped.
    torch.le(numbers, round(kept * 2**bits) - 1 - 2 ** (bits - 1), out=mask)
