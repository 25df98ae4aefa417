"""FedYogi: Yogi on the server, whose v moves by the size of the change alone.

Reddi et al. 2020, arXiv 2003.00295, algorithm 2; without bias correction. Flower's own is
``flwr.serverapp.strategy:FedYogi()``.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.strategies.adaptive._server_optimiser import AdaptiveOptimiser, fraction


class FedYogi(AdaptiveOptimiser):
    """``m = beta1 m + (1 - beta1) delta``; ``v -= (1 - beta2) delta^2 sign(v - delta^2)``.

    Then ``theta += eta m / (sqrt(v) + tau)``, with delta the clients' mean change and v from tau^2.

    Args:
        eta: the server's learning rate, above 0.
        beta1: of the first moment, in [0, 1).
        beta2: of the second moment, in [0, 1).
        tau: degree of adaptivity, above 0; A and B of LoRA differ in scale, so it matters.
        weighting: ``examples`` or ``uniform``.
    """

    def __init__(
        self,
        eta: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.99,
        tau: float = 0.001,
        weighting: str = "examples",
    ) -> None:
        super().__init__(eta, beta1, tau, weighting)
        self.beta2 = fraction("beta2", beta2)

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """Return the next v."""
        return v - (1 - self.beta2) * square * (v - square).sign()
