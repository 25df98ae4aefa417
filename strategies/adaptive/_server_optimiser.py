"""Optimisers on the server: the mean change of the clients is taken for a negative gradient."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.named_parts import join_parts, take_part
from fl2ora.strategies.updates import ClientUpdate, WeightedMean, Weighting


class ServerOptimiser(Strategy):
    """``theta += step(delta)`` with ``delta = sum_k p_k theta_k - theta`` and some memory.

    A subclass says what it remembers of every tensor, and how a step is made of it.

    Args:
        weighting: ``examples`` or ``uniform``.
    """

    def __init__(self, weighting: str = "examples") -> None:
        self.weighting = Weighting(weighting)
        self._memory: dict[str, Adapter] = {}

    @abstractmethod
    def initial(self) -> dict[str, float]:
        """Return the value each memory starts with, by the name of the memory."""

    @abstractmethod
    def step(self, delta: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """Return what is added to one tensor.

        Args:
            delta: float64, shaped like the tensor.
            memory: float64, likewise; to be updated in place.
        """

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Average and take one step; see ``Strategy.aggregate``."""
        mean = WeightedMean.of(updates, self.weighting).result(torch.float64)
        result: Adapter = {}
        kept: dict[str, Adapter] = {part: {} for part in self.initial()}
        for name, average in mean.items():
            start = plan.current[name].double()
            memory = {part: self._remembered(part, name, start) for part in kept}
            result[name] = start + self.step(average - start, memory)
            for part, tensor in memory.items():
                kept[part][name] = tensor
        self._memory = {part: as_adapter(adapter) for part, adapter in kept.items()}
        return as_adapter(result)

    def _remembered(self, part: str, name: str, like: Tensor) -> Tensor:
        known = self._memory.get(part)
        return known[name].double() if known else torch.full_like(like, self.initial()[part])

    def state(self) -> Adapter:
        """Return the memory."""
        return join_parts(self._memory)

    def load_state(self, state: Adapter) -> None:
        """Take up the memory."""
        self._memory = {part: take_part(state, part) for part in self.initial()}


class AdaptiveOptimiser(ServerOptimiser):
    """FedOpt of Reddi et al. 2020, arXiv 2003.00295, as in the paper: no bias correction.

    ``m = beta1 m + (1 - beta1) delta``; v by the subclass, from ``v = tau^2``;
    ``theta += eta m / (sqrt(v) + tau)``.

    Args:
        eta: the server's learning rate, above 0.
        beta1: in [0, 1).
        tau: degree of adaptivity, above 0.
        weighting: ``examples`` or ``uniform``.
    """

    def __init__(self, eta: float, beta1: float, tau: float, weighting: str) -> None:
        super().__init__(weighting)
        positive("eta", eta)
        positive("tau", tau)
        self.eta, self.beta1, self.tau = eta, fraction("beta1", beta1), tau

    @abstractmethod
    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """Return the next v from the last one and ``delta^2``."""

    def initial(self) -> dict[str, float]:
        """Return the start of both moments."""
        return {"m": 0.0, "v": self.tau**2}

    def step(self, delta: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """Return ``eta m / (sqrt(v) + tau)``."""
        memory["m"] = self.beta1 * memory["m"] + (1 - self.beta1) * delta
        memory["v"] = self.second_moment(memory["v"], delta.square())
        return self.eta * memory["m"] / (memory["v"].sqrt() + self.tau)


def positive(name: str, value: float) -> float:
    """Return ``value`` if it is finite and above 0, else raise a ValueError."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a finite number above 0, found {value}")
    return value


def fraction(name: str, value: float) -> float:
    """Return ``value`` if it is in [0, 1), else raise a ValueError."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected 0 <= {name} < 1, found {value}")
    return value
