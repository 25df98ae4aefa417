"""FedAvgM: FedAvg with momentum on the server.

Hsu et al. 2019, arXiv 1909.06335.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.strategies.adaptive._server_optimiser import ServerOptimiser, fraction, positive


class FedAvgM(ServerOptimiser):
    """``u = beta u + (theta - sum_k p_k theta_k)``; ``theta -= eta u``. beta 0, eta 1: FedAvg.

    Args:
        beta: momentum, in [0, 1).
        eta: the server's learning rate, above 0.
        weighting: ``examples`` or ``uniform``.
    """

    def __init__(self, beta: float = 0.9, eta: float = 1.0, weighting: str = "examples") -> None:
        super().__init__(weighting)
        self.beta, self.eta = fraction("beta", beta), positive("eta", eta)

    def initial(self) -> dict[str, float]:
        """Return the start of the momentum."""
        return {"u": 0.0}

    def step(self, delta: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """Return ``-eta u``."""
        memory["u"] = self.beta * memory["u"] - delta
        return -self.eta * memory["u"]
