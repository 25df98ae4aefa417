"""Intra-order-preserving network: it rescales the gaps between sorted logits, never their order.

With the logits sorted downwards, gaps ``d_i = z_i - z_{i+1}`` and slopes ``m_i(z) >= 0``, the i-th
largest output is ``sum_{j >= i} d_j m_j(z)`` (the last is 0). The slopes are softplus outputs of a
network; it reads the sorted logits relative to the largest, so a row's shift does not matter.

Source: Rahimi, Shaban, Cheng, Hartley, Boots, "Intra order-preserving functions for calibration of
multi-class neural networks", 2020, arXiv 2003.06820.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn, zeros_like

from fl2ora.calibration.calibrators._network import NetworkCalibrator, forward
from fl2ora.calibration.calibrators.base import Parameters


class OrderPreserving(NetworkCalibrator):
    """Rescale the gaps between sorted logits; the start has all slopes 1, the identity.

    Parameters: ``weight1``, ``bias1``, ``weight2``, ``bias2`` of the network.

    Args:
        hidden: width of the hidden layer.
        steps: rounds of summed gradients.
        learning_rate: of Adam.
        seed: of the hidden weights.
    """

    output_bias: ClassVar[float] = math.log(math.e - 1)

    def __init__(
        self, hidden: int = 10, steps: int = 200, learning_rate: float = 0.01, seed: int = 0
    ) -> None:
        super().__init__(hidden, steps, learning_rate, seed)

    def sizes(self, num_classes: int) -> list[int]:
        """Return the widths: sorted logits, one hidden layer, one slope per gap."""
        return [num_classes, self.hidden, num_classes - 1]

    def rescale(self, logits: Tensor, parameters: Parameters) -> Tensor:
        """Return the order-preserving map of the logits."""
        downwards = logits.sort(dim=1, descending=True).values
        slopes = nn.functional.softplus(forward(downwards - downwards[:, :1], parameters))
        return rescale_gaps(logits, slopes)

    def loss(self, log_probabilities: Tensor, labels: Tensor) -> Tensor:
        """Return the summed negative log-likelihood."""
        return -log_probabilities.gather(1, labels[:, None]).sum()


def rescale_gaps(logits: Tensor, slopes: Tensor) -> Tensor:
    """Return ``logits (N, K)`` with the gaps of every sorted row multiplied.

    Args:
        logits: any order.
        slopes: ``(N, K - 1)``, at least 0; the first belongs to the gap below the largest logit.

    Returns:
        ``(N, K)`` in the order of the input; the smallest of a row is 0.
    """
    downwards = logits.sort(dim=1, descending=True, stable=True)
    gaps = (downwards.values[:, :-1] - downwards.values[:, 1:]) * slopes
    above = gaps.flip(1).cumsum(dim=1).flip(1)
    last = zeros_like(logits[:, :1])
    return zeros_like(logits).scatter(1, downwards.indices, nn.functional.pad(above, (0, 1)) + last)
