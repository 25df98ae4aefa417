"""Fewer bytes for what clients send: the change of an update, in a form with a fixed size.

What a round leaves out may be kept and added to the client's next change: error feedback, of Seide
et al. 2014 (doi 10.21437/Interspeech.2014-274); Stich et al. 2018, arXiv 1809.07599; Karimireddy et
al. 2019, arXiv 1901.09847. With ``e_0 = 0`` a client of change d_t sends ``c_t = C(d_t + e_t)`` and
keeps ``e_{t+1} = d_t + e_t - c_t``, so that ``sum_t c_t = sum_t d_t - e_{T+1}``: nothing is lost,
it comes later.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

Parts = dict[str, Tensor]
Layout = dict[str, tuple[torch.dtype, int]]


class Compression(ABC):
    """How the values of one tensor are sent; constructor arguments are what a spec may set.

    Attributes:
        feedback: what is left out of a change is kept on the node and added to its next change.
    """

    feedback: bool = False

    @abstractmethod
    def layout(self, size: int) -> Layout:
        """Return type and length of each part that so many values, at least one, are sent as.

        Types are float16, float32, int8, uint8 or int32. It depends on nothing else, so that the
        server knows what to expect.
        """

    @abstractmethod
    def encode(self, values: Tensor, rng: torch.Generator) -> Parts:
        """Return the parts.

        Args:
            values: ``(size,)`` float32, finite.
            rng: for rounding at random.
        """

    @abstractmethod
    def decode(self, parts: Mapping[str, Tensor], size: int) -> Tensor:
        """Return ``(size,)`` float32 values of parts whose types and lengths are right.

        Raises:
            ValueError: no values give such parts.
        """


def check_finite_part(parts: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a part in float64.

    Raises:
        ValueError: it has values that are not finite.
    """
    part = parts[name].double()
    if not bool(torch.isfinite(part).all()):
        raise ValueError(f"{name}: expected finite values")
    return part
