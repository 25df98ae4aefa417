"""FedDyn: clients and server remember how they were pulled apart, and correct for it.

Acar et al. 2021, arXiv 2111.04263; https://github.com/alpemreacar/FedDyn keeps ``-g_k / alpha`` and
``-h / alpha``, which is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from fl2ora.clip_tuning.adapter import Adapter, as_adapter, check_finite
from fl2ora.experiment.arguments import whole
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.client_rule import (
    ClientRule,
    LocalStart,
    add_to_gradient,
    like_tuned,
    zeros_unless,
)
from fl2ora.strategies.named_parts import join_parts, take_part
from fl2ora.strategies.updates import ClientUpdate, WeightedMean, Weighting

_MOST_ROUNDS = 1_000_000  # as of num-rounds


class FedDyn(Strategy):
    """Dynamic regularisation; the fixed point is an optimum of the mean of all clients' losses.

    Clients: ``theta_k = argmin L_k(theta) - <g_k, theta> + alpha/2 |theta - theta_t|^2``, then
    ``g_k -= alpha (theta_k - theta_t)``. Server, with S the m clients that answered out of M:
    ``h -= alpha/M sum_S (theta_k - theta_t)``; ``theta = mean_S theta_k - h/alpha``. The mean is
    uniform; clients that did not take part keep ``g_k``.

    ``h/alpha`` adds up all movement so far whatever alpha is: with a small alpha clients drift
    far, and the first rounds overshoot. Remedies: ``warmup``, ``clip``, or a larger alpha.

    A client whose reply is lost or dropped has moved its ``g_k`` without the server moving ``h``.
    The mean of all g_k then differs from h for good, by ``alpha/M`` times the lost change, and the
    fixed point shifts accordingly. A client that raises keeps its old g_k: nothing shifts.

    Args:
        alpha: weight of the regulariser, at least 0; 0 is FedAvg with uniform weights.
        mean_examples: 0, or the mean number n of a client's images: client k then uses
            ``alpha n / n_k``, as the authors' code does, and larger clients count for more.
        warmup: first rounds in which plain local training and the uniform mean are used.
        clip: largest norm of a client's whole gradient, 10 in the authors' code; 0: no limit.
    """

    def __init__(
        self,
        alpha: float = 0.01,
        mean_examples: float = 0.0,
        warmup: int = 0,
        clip: float = 10.0,
    ) -> None:
        self._rule = FedDynRule(alpha, mean_examples, clip)
        self.alpha = alpha
        self.warmup = whole("warmup", warmup, at_least=0, at_most=_MOST_ROUNDS)
        self._h: Adapter = {}

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Send the client half; none while warming up."""
        plan = super().plan(server_round, current, clients)
        if self.alpha == 0 or server_round <= self.warmup:
            return plan
        rule = self._rule
        numbers = {"alpha": rule.alpha, "mean_examples": rule.mean_examples, "clip": rule.clip}
        arguments = ", ".join(f"{name}={value!r}" for name, value in numbers.items())
        return replace(plan, rule=f"feddyn({arguments})")

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Average, move ``h`` and correct; see ``Strategy.aggregate``."""
        mean = WeightedMean.of(updates, Weighting.UNIFORM)
        if self.alpha == 0 or plan.round <= self.warmup:
            return mean.result()
        share = mean.total_weight / len(self.run.clients)
        result, state = {}, {}
        for name, average in mean.result(torch.float64).items():
            moved = average - plan.current[name].double()
            h = self._h[name].double() if self._h else torch.zeros_like(average)
            h = h - self.alpha * share * moved
            state[name] = h
            result[name] = average - h / self.alpha
        self._h = as_adapter(state)
        return as_adapter(result)

    def state(self) -> Adapter:
        """Return ``h``."""
        return join_parts({"h": self._h})

    def load_state(self, state: Adapter) -> None:
        """Take up ``h``."""
        self._h = take_part(state, "h")


class FedDynRule(ClientRule):
    """Adds ``alpha (theta - theta_t) - g_k`` to the gradient; keeps ``g_k`` on the node.

    Args:
        alpha: see ``FedDyn``.
        mean_examples: see ``FedDyn``.
        clip: see ``FedDyn``.
    """

    def __init__(self, alpha: float, mean_examples: float = 0.0, clip: float = 10.0) -> None:
        for name, value in (("alpha", alpha), ("mean_examples", mean_examples), ("clip", clip)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a finite number of at least 0, found {value}")
        self.alpha = alpha
        self.mean_examples = mean_examples
        self.clip = clip

    def begin(self, start: LocalStart) -> None:
        """Take up ``g_k``; zero at first."""
        self._tuned = start.tuned
        self._own_alpha = self.alpha
        if self.mean_examples:
            self._own_alpha *= self.mean_examples / start.num_examples
        self._centre = like_tuned(start.received, start.tuned)
        self._g = zeros_unless(start.state, start.tuned)

    def after_backward(self) -> None:
        """Add the two terms, then clip the whole gradient."""
        for name, parameter in self._tuned.items():
            pull = self._own_alpha * (parameter.detach() - self._centre[name])
            add_to_gradient(parameter, pull - self._g[name])
        if self.clip:
            nn.utils.clip_grad_norm_(self._tuned.values(), self.clip)

    def finish(self, steps: int) -> tuple[Adapter, Adapter]:
        """Return no tensors for the server, and the new ``g_k`` to keep.

        Raises:
            AdapterError: training diverged; the node keeps its old ``g_k``.
        """
        state = as_adapter(
            {
                name: self._g[name] - self._own_alpha * (parameter.detach() - self._centre[name])
                for name, parameter in self._tuned.items()
            }
        )
        check_finite(state, "g_k")
        return {}, state
