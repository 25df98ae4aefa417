"""Derivatives that can be differentiated again, of functions whose own backward pass cannot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def differentiated(
    found: Tensor, given: Sequence[Tensor | None], needs: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Return gradients with a graph of their own, None where none is needed.

    Args:
        found: computed anew from ``given`` by functions that torch can differentiate twice.
        given: what it was computed from.
        needs: of which of these a gradient is wanted.
        gradient: of ``found``.
    """
    wanted = [each for each, need in zip(given, needs, strict=True) if need and each is not None]
    gradients = iter(torch.autograd.grad(found, wanted, gradient, create_graph=True))
    return tuple(next(gradients) if need else None for need in needs)
