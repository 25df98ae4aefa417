"""FedAdagrad: Adagrad on the server.

Reddi et al. 2020, arXiv 2003.00295, algorithm 2. Flower's own is
``flwr.serverapp.strategy:FedAdagrad()``.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.strategies.adaptive._server_optimiser import AdaptiveOptimiser


class FedAdagrad(AdaptiveOptimiser):
    """``v += delta^2``; ``theta += eta m / (sqrt(v) + tau)``.

    Here m is ``beta1 m + (1 - beta1) delta``, delta the clients' mean change; v starts at tau^2.

    Args:
        eta: the server's learning rate, above 0.
        beta1: of the first moment, in [0, 1); the paper uses 0.
        tau: degree of adaptivity, above 0.
        weighting: ``examples`` or ``uniform``.
    """

    def __init__(
        self,
        eta: float = 0.1,
        beta1: float = 0.0,
        tau: float = 0.001,
        weighting: str = "examples",
    ) -> None:
        super().__init__(eta, beta1, tau, weighting)

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """Return the next v."""
        return v + square
