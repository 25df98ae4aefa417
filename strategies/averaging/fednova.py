"""FedNova: clients that take more steps do not pull the objective towards themselves.

Wang et al. 2020, arXiv 2007.07481; https://github.com/JYWa/FedNova.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.strategies._local_sgd import check_optimiser, check_said, check_start
from fl2ora.strategies.averaging.fedprox import FedProxRule
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.client_rule import LocalStart
from fl2ora.strategies.named_parts import join_parts, take_part
from fl2ora.strategies.updates import ClientUpdate, WeightedMean, Weighting

NORMALISER, STEPS = "normaliser", "steps"
_MOST_ONE_BY_ONE = 1_000_000


class FedNova(Strategy):
    """Normalised averaging: ``theta -= tau sum_k p_k d_k / |a_k|_1`` with d_k = theta - theta_k.

    ``|a_k|_1`` is how far client k would go under a constant unit gradient and learning rate;
    ``tau = sum_k p_k |a_k|_1``, or ``sum_k p_k tau_k`` (steps) if mu > 0. The p_k add up to one
    before the division and are not normalised again after it. Equal steps and mu = 0 give FedAvg.

    The normaliser is that of SGD: another optimiser is refused. With mu > 0 the mean is not kept
    even for equal clients, as in the authors' code; and momentum is refused, because that code
    counts each step twice under momentum and mu together.

    Args:
        mu: weight of FedProx's proximal term on the clients, at least 0.
        momentum: of the server (the authors' ``gmf``), in [0, 1); the buffer is in units of theta,
            which for a constant learning rate is the authors' update.
        weighting: ``examples`` or ``uniform``.
    """

    def __init__(self, mu: float = 0.0, momentum: float = 0.0, weighting: str = "examples") -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected 0 <= momentum < 1, found {momentum}")
        self.mu = FedNovaRule(mu).mu
        self.momentum = momentum
        self.needs_plain_sgd = mu > 0
        self.weighting = Weighting(weighting)
        self._buffer: Adapter = {}

    def accepts(self, optimiser: str, schedule: str, gradient_clip: float = 0.0) -> None:
        """Refuse optimisers that the normaliser is not defined for; see ``Strategy.accepts``."""
        check_optimiser(self.spec_name, optimiser, schedule, momentum=not self.mu)

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Send the client half; see ``Strategy.plan``."""
        plan = super().plan(server_round, current, clients)
        return replace(plan, rule=f"fednova(mu={self.mu!r})")

    def check_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        """Refuse an update without a normaliser, or with another than its work has."""
        work, length, steps = self._work_of(plan, update.client), None, None
        if work is not None:
            length = normaliser(work.steps, work.momentum, work.learning_rate * self.mu)
            steps = float(work.steps)
        check_said(update, NORMALISER, length)
        check_said(update, STEPS, steps)

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Sum the normalised changes and take one step; see ``Strategy.aggregate``."""
        changes, effective = WeightedMean(), WeightedMean()
        start = {name: tensor.double() for name, tensor in plan.current.items()}
        for update in updates:
            weight = self.weighting.of(update)
            length = float(update.aux[NORMALISER])
            changes.add(
                {name: (start[name] - t.double()) / length for name, t in update.adapter.items()},
                weight,
            )
            effective.add({"tau": update.aux[STEPS if self.mu else NORMALISER]}, weight)
        tau = effective.result(torch.float64)["tau"].reshape(())
        result, buffer = {}, {}
        for name, change in changes.result(torch.float64).items():
            step = tau * change
            if self.momentum:
                before = self._buffer[name].double() if self._buffer else torch.zeros_like(step)
                step = self.momentum * before + step
                buffer[name] = step
            result[name] = start[name] - step
        self._buffer = as_adapter(buffer)
        return as_adapter(result)

    def state(self) -> Adapter:
        """Return the server's momentum."""
        return join_parts({"buffer": self._buffer})

    def load_state(self, state: Adapter) -> None:
        """Take up the server's momentum."""
        self._buffer = take_part(state, "buffer")


class FedNovaRule(FedProxRule):
    """FedProx's client half that also reports ``|a|_1`` and the number of steps.

    Args:
        mu: at least 0.
    """

    def __init__(self, mu: float = 0.0) -> None:
        super().__init__(mu)

    def begin(self, start: LocalStart) -> None:
        """Look at the optimiser's settings.

        Raises:
            UserError: it is not SGD, or has momentum beside mu.
        """
        check_start("fednova", start, momentum=not self.mu)
        super().begin(start)
        self._momentum = start.momentum
        self._shrink = start.learning_rate * self.mu

    def finish(self, steps: int) -> tuple[Adapter, Adapter]:
        """Return the normaliser and the steps, and nothing to keep."""
        length = normaliser(steps, self._momentum, self._shrink)
        return {NORMALISER: torch.tensor([length]), STEPS: torch.tensor([float(steps)])}, {}


def normaliser(steps: int, momentum: float = 0.0, shrink: float = 0.0) -> float:
    """Return ``|a|_1``, step by step as in the authors' code.

    Args:
        steps: tau of SGD.
        momentum: rho; each step adds c with ``c = rho c + 1``.
        shrink: ``eta mu``; each step makes n ``n (1 - eta mu) + 1``, after the momentum's line.
    """
    if steps > _MOST_ONE_BY_ONE:  # of a client that says it has so many images
        return _of_many(steps, momentum, shrink)
    total = gathered = 0.0
    for _ in range(steps):
        if momentum:
            gathered = momentum * gathered + 1
            total += gathered
        if shrink:
            total = total * (1 - shrink) + 1
        if not momentum and not shrink:
            total += 1
    return total


def _of_many(steps: int, momentum: float, shrink: float) -> float:
    """Return ``normaliser`` from the formulas of its geometric sums.

    Raises:
        ValueError: momentum and shrink together, which ``FedNova`` refuses.
    """
    if momentum and shrink:
        raise ValueError("normaliser: expected momentum or shrink alone, found both")
    if momentum:
        return (steps - momentum * _geometric(momentum, steps)) / (1 - momentum)
    return _geometric(1 - shrink, steps) if shrink else float(steps)


def _geometric(ratio: float, terms: int) -> float:
    """Return ``1 + ratio + ... + ratio^(terms - 1)``; infinite beyond all floats."""
    try:
        return (1 - ratio**terms) / (1 - ratio)
    except OverflowError:
        return math.inf
