"""Scaling: the client multiplies its change to outweigh the others (model replacement).

Bagdasaryan et al. 2018, arXiv 1807.00459.
"""

from __future__ import annotations

import math

import torch

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.attacks.base import Attack
from fl2ora.strategies.client_rule import LocalStart, like_tuned


class Scaling(Attack):
    """Sends ``theta_t + factor (theta_k - theta_t)``.

    Args:
        factor: finite.
    """

    def __init__(self, factor: float = 10.0) -> None:
        if not math.isfinite(factor):
            raise ValueError(f"factor: expected a finite number, found {factor}")
        self.factor = factor

    def begin(self, start: LocalStart) -> None:
        """Remember the adapter received."""
        self._tuned = start.tuned
        self._start = like_tuned(start.received, start.tuned)

    def finish(self, steps: int) -> tuple[Adapter, Adapter]:
        """Multiply the change."""
        with torch.no_grad():
            for name, parameter in self._tuned.items():
                start = self._start[name]
                parameter.copy_(start + self.factor * (parameter - start))
        return {}, {}
