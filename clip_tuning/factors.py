"""LoRA factors inside an adapter: which tensors belong together, and products never formed.

A pair is ``A (r, i)`` and ``B (o, r)`` with the update ``B A (o, i)``; the scaling s stays outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_A = ".lora_A.weight"
_B = ".lora_B.weight"


@dataclass(frozen=True)
class Factors:
    """One low-rank product ``b @ a``: ``a (r, i)``, ``b (o, r)``."""

    a: Tensor
    b: Tensor

    def minus(self, other: Factors) -> Factors:
        """Return ``b a - b' a'`` as one product of rank r + r'."""
        return Factors(torch.cat([self.a, other.a]), torch.cat([self.b, -other.b], dim=1))


def pair_names(adapter: Mapping[str, Tensor]) -> list[str]:
    """Return the sorted module names that have both factors in ``adapter``."""
    stems = (name.removesuffix(_A) for name in adapter if name.endswith(_A))
    return sorted(stem for stem in stems if stem + _B in adapter)


def factors_of(adapter: Mapping[str, Tensor], module: str) -> Factors:
    """Return one module's factors as float64."""
    return Factors(adapter[module + _A].double(), adapter[module + _B].double())


def factor_names(module: str) -> tuple[str, str]:
    """Return the names of A and B of a module."""
    return module + _A, module + _B


def inner(one: Factors, two: Factors) -> Tensor:
    """Return the Frobenius inner product ``<b a, b' a'> = tr((b^T b') (a' a^T))``."""
    return ((one.b.T @ two.b) * (one.a @ two.a.T)).sum()


def change_cosine(
    now: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
) -> float:
    """Return the cosine between the changes ``now - start`` and ``start - before``.

    LoRA pairs enter by their products ``B A``, so that a change of basis which leaves the update as
    it is counts as none; all other tensors enter as they are. 0 where either change is zero.
    """
    local, last, both = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    paired: set[str] = set()
    for module in pair_names(start):
        paired |= set(factor_names(module))
        here = factors_of(now, module).minus(factors_of(start, module))
        there = factors_of(start, module).minus(factors_of(before, module))
        local, last, both = (
            local + inner(here, here),
            last + inner(there, there),
            both + inner(here, there),
        )
    for name in start.keys() - paired:
        step = now[name].double() - start[name].double()
        previous = start[name].double() - before[name].double()
        local, last = local + step.square().sum(), last + previous.square().sum()
        both = both + (step * previous).sum()
    if local <= 0 or last <= 0:
        return 0.0
    return float((both / (local * last).sqrt()).clamp(-1, 1))
