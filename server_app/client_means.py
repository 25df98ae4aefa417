"""Means over a round's clients of what they report of their training."""

from __future__ import annotations

import math

from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.updates import ClientUpdate

LOSS = "loss"


class ClientMeans:
    """Example-weighted means of the losses, gathered while updates stream by."""

    def __init__(self) -> None:
        self._examples: list[int] = []
        self._sums: dict[str, list[float]] = {}

    @property
    def updates(self) -> int:
        """Updates so far."""
        return len(self._examples)

    def on_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        """Take one update into account."""
        self._examples.append(update.num_examples)
        for name, value in update.metrics.items():
            if name.startswith(LOSS):
                self._sums.setdefault(name, []).append(value * update.num_examples)

    def result(self) -> dict[str, float]:
        """Return ``clients``, ``num-examples``, and each loss that every client reported."""
        if not self._examples:
            return {}
        total = sum(self._examples)
        means = {
            name: math.fsum(sums) / total
            for name, sums in self._sums.items()
            if len(sums) == len(self._examples)
        }
        return {"clients": float(self.updates), "num-examples": float(total), **means}
