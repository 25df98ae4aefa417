"""The largest values of a tensor, and where they are.

Stich et al. 2018, arXiv 1809.07599, with the error feedback without which it need not converge:
Karimireddy et al. 2019, arXiv 1901.09847.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fl2ora.strategies.compression.base import Compression, Layout, Parts, check_finite_part


class TopK(Compression):
    """The ``k = ceil(share n)`` values of largest magnitude of n; the first ones among equals.

    At most ``1 - k/n`` of the squared norm is left out, and kept for the next round. Places are
    sent as one bit a value, or as four bytes each where that is shorter, below a share of 1/32.

    Args:
        share: of the values of each tensor that is sent.
    """

    feedback = True

    def __init__(self, share: Annotated[float, Field(gt=0, le=1)] = 0.1) -> None:
        self.share = share

    def layout(self, size: int) -> Layout:
        """Return four bytes a kept value, and the places."""
        kept, mask = self._kept(size), math.ceil(size / 8)
        few = 4 * kept < mask
        places = {"places": (torch.int32, kept)} if few else {"mask": (torch.uint8, mask)}
        return {"values": (torch.float32, kept), **places}

    def encode(self, values: Tensor, rng: torch.Generator) -> Parts:
        """Pick the largest, in the order of their places."""
        largest = values.abs().sort(descending=True, stable=True).indices
        places = largest[: self._kept(len(values))].sort().values
        if "places" in self.layout(len(values)):
            where = {"places": places.to(torch.int32)}
        else:
            bits = torch.zeros(8 * math.ceil(len(values) / 8), dtype=torch.uint8)
            bits[places] = 1
            where = {"mask": (bits.reshape(-1, 8) << torch.arange(8)).sum(dim=1).to(torch.uint8)}
        return {"values": values[places], **where}

    def decode(self, parts: Mapping[str, Tensor], size: int) -> Tensor:
        """Put the values in their places, among zeros."""
        values, kept = check_finite_part(parts, "values"), self._kept(size)
        if "places" in parts:
            places = parts["places"].long()
            rising = bool((places.diff() > 0).all())
            if not (rising and int(places[0]) >= 0 and int(places[-1]) < size):
                raise ValueError(f"places: expected {kept} rising ones below {size}")
        else:
            bits = (parts["mask"].long()[:, None] >> torch.arange(8)) & 1
            places = bits.flatten().nonzero().flatten()
            if len(places) != kept or int(places[-1]) >= size:
                raise ValueError(f"mask: expected {kept} places below {size}, found {len(places)}")
        result = torch.zeros(size)
        result[places] = values.float()
        return result

    def _kept(self, size: int) -> int:
        return math.ceil(self.share * size)
