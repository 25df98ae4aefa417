"""SCAFFOLD: control variates on clients and server take the drift out of every local step.

Karimireddy et al. 2019, arXiv 1910.06378, option II.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter, as_adapter, check_finite
from fl2ora.experiment.errors import UserError
from fl2ora.strategies._local_sgd import check_said, check_start
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.client_rule import (
    ClientRule,
    LocalStart,
    add_to_gradient,
    like_tuned,
    zeros_unless,
)
from fl2ora.strategies.named_parts import join_parts, take_part
from fl2ora.strategies.updates import ClientUpdate, WeightedMean

DISTANCE = "distance"
"""Of ``aux``: K lr, the sum of the learning rates of a client's steps."""


class SCAFFOLD(Strategy):
    """Local step ``y -= lr (grad - c_k + c)``, then ``c_k += (x - y)/(K lr) - c`` after K steps.

    Server: ``x += step mean_S (y_k - x)``; ``c += m/M mean_S (change of c_k)`` with m of M clients
    in S. Means are uniform, as c is the uniform mean of all c_k. What a client is sent is twice as
    long; it returns K lr beside y, from which the change of c_k follows. Clients must train with
    plain SGD: ``optimiser = "sgd(momentum=0.0)"`` in the run config, and without ``gradient-clip``:
    c_k would be the mean of gradients cut short, which no mean of all clients undoes.

    A client whose reply is lost or dropped has moved its c_k without the server moving c, which
    then is off the mean of all c_k for good by 1/M of that change, and the fixed point with it.
    A client that raises keeps its old c_k.

    Args:
        step: the server's learning rate, above 0.
    """

    needs_plain_sgd = True

    def __init__(self, step: float = 1.0) -> None:
        if not 0 < step < float("inf"):
            raise ValueError(f"step: expected a finite number above 0, found {step}")
        self.step = step
        self._c: Adapter = {}

    def accepts(self, optimiser: str, schedule: str, gradient_clip: float = 0.0) -> None:
        """Refuse all but whole steps of plain SGD; see ``Strategy.accepts``."""
        super().accepts(optimiser, schedule, gradient_clip)
        if gradient_clip:
            raise UserError(
                f"strategy {self.spec_name!r}: gradient-clip: expected 0, since its variates are "
                f"means of whole gradients, found {gradient_clip:g}"
            )

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Send the client half and c, for which nothing stands for zero."""
        plan = super().plan(server_round, current, clients)
        return replace(plan, rule="scaffold", aux=self._c)

    def check_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        """Refuse an update without K lr, with another than its work has, or with more."""
        if len(update.aux) > 1:
            raise ValueError(f"aux: expected a positive number {DISTANCE!r}, found {update.aux}")
        work = self._work_of(plan, update.client)
        check_said(update, DISTANCE, None if work is None else work.steps * work.learning_rate)

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Take the mean step and move c; see ``Strategy.aggregate``."""
        mean, changes = WeightedMean(), WeightedMean()
        for update in updates:
            mean.add(update.adapter, 1.0)
            changes.add(self._change(plan, update), 1.0)
        share = mean.total_weight / len(self.run.clients)
        result = {}
        for name, average in mean.result(torch.float64).items():
            start = plan.current[name].double()
            result[name] = start + self.step * (average - start)
        self._c = as_adapter(
            {
                name: share * change + (self._c[name].double() if self._c else 0.0)
                for name, change in changes.result(torch.float64).items()
            }
        )
        return as_adapter(result)

    def _change(self, plan: RoundPlan, update: ClientUpdate) -> dict[str, Tensor]:
        """Return how a client's c_k changed, in float64."""
        start, distance = plan.current, float(update.aux[DISTANCE])
        return {
            name: (start[name].double() - tensor.double()) / distance
            - (plan.aux[name].double() if plan.aux else 0.0)
            for name, tensor in update.adapter.items()
        }

    def state(self) -> Adapter:
        """Return c."""
        return join_parts({"c": self._c})

    def load_state(self, state: Adapter) -> None:
        """Take up c."""
        self._c = take_part(state, "c")


class SCAFFOLDRule(ClientRule):
    """Adds ``c - c_k`` to the gradient; keeps c_k on the node and sends K lr."""

    def begin(self, start: LocalStart) -> None:
        """Take up c and c_k; zero at first.

        Raises:
            UserError: the optimiser is not plain SGD, so that ``(x - y)/(K lr)`` is no mean
                gradient.
        """
        check_start("scaffold", start, momentum=False)
        self._tuned = start.tuned
        self._rate = start.learning_rate
        self._start = like_tuned(start.received, start.tuned)
        self._c = zeros_unless(start.aux, start.tuned)
        self._own = zeros_unless(start.state, start.tuned)

    def after_backward(self) -> None:
        """Correct the gradient."""
        for name, parameter in self._tuned.items():
            add_to_gradient(parameter, self._c[name] - self._own[name])

    def finish(self, steps: int) -> tuple[Adapter, Adapter]:
        """Return K lr, and the new c_k to keep.

        Raises:
            AdapterError: training diverged; the node keeps its old c_k.
        """
        distance = steps * self._rate
        change = {
            name: (self._start[name] - parameter.detach()) / distance - self._c[name]
            for name, parameter in self._tuned.items()
        }
        state = as_adapter({name: self._own[name] + change[name] for name in change})
        check_finite(state, "c_k")
        return {DISTANCE: torch.tensor([distance])}, state
