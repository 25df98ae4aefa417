"""FedProx: FedAvg whose clients are held near the adapter they started from.

Li et al. 2018, arXiv 1812.06127.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.client_rule import ClientRule, LocalStart, add_to_gradient, like_tuned


class FedProx(FedAvg):
    """Clients minimise ``L_k + mu/2 |theta - theta_t|^2``; the server takes the mean.

    Args:
        mu: weight of the proximal term, at least 0; 0 is FedAvg.
        weighting: ``examples`` or ``uniform``.
    """

    def __init__(self, mu: float = 0.1, weighting: str = "examples") -> None:
        super().__init__(weighting)
        self.mu = FedProxRule(mu).mu

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Send the client half; see ``Strategy.plan``."""
        plan = super().plan(server_round, current, clients)
        return replace(plan, rule=f"fedprox(mu={self.mu!r})")


class FedProxRule(ClientRule):
    """Adds the gradient ``mu (theta - theta_t)`` of the proximal term, tuned parameters only.

    Args:
        mu: at least 0.
    """

    def __init__(self, mu: float) -> None:
        if not 0 <= mu < float("inf"):
            raise ValueError(f"mu: expected a finite number of at least 0, found {mu}")
        self.mu = mu

    def begin(self, start: LocalStart) -> None:
        """Remember the adapter received."""
        self._tuned = start.tuned
        self._centre = like_tuned(start.received, start.tuned)

    def after_backward(self) -> None:
        """Add the term's gradient, where there is one."""
        if self.mu:
            for name, parameter in self._tuned.items():
                add_to_gradient(parameter, self.mu * (parameter.detach() - self._centre[name]))
