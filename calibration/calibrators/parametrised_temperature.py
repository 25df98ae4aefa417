"""Parametrised temperature scaling: a small network chooses the temperature of every example.

``softmax(z / T(z))`` with ``T(z) = |MLP(largest logits, sorted)|``, two hidden layers of 5, fitted
by squared error.

Source: Tomani, Cremers, Buettner, "Parameterized temperature scaling for boosting the expressive
power in post-hoc uncertainty calibration", 2021, arXiv 2102.12182.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._network import NetworkCalibrator, forward
from fl2ora.calibration.calibrators._tensors import check_whole
from fl2ora.calibration.calibrators.base import Parameters

RANGE = (1e-12, 1e12)
"""Temperatures are cut to this range."""


class ParametrisedTemperature(NetworkCalibrator):
    """Divide every example's logits by a temperature of its own; the start is T = 1.

    Parameters: ``weight1``, ``bias1``, ... ``bias3`` of the network.

    Args:
        top: how many of the largest logits the network sees (all, where there are fewer).
        hidden: width of both hidden layers.
        steps: rounds of summed gradients.
        learning_rate: of Adam.
        seed: of the hidden weights.
    """

    output_bias: ClassVar[float] = 1.0

    def __init__(
        self,
        top: int = 10,
        hidden: int = 5,
        steps: int = 200,
        learning_rate: float = 0.02,
        seed: int = 0,
    ) -> None:
        super().__init__(hidden, steps, learning_rate, seed)
        self.top = check_whole("top", top, 1)

    def sizes(self, num_classes: int) -> list[int]:
        """Return the widths: inputs, two hidden layers, one temperature."""
        return [min(self.top, num_classes), self.hidden, self.hidden, 1]

    def rescale(self, logits: Tensor, parameters: Parameters) -> Tensor:
        """Return ``z / T(z)``."""
        largest = logits.sort(dim=1, descending=True).values[:, : self.top]
        return logits / forward(largest, parameters).abs().clamp(*RANGE)

    def loss(self, log_probabilities: Tensor, labels: Tensor) -> Tensor:
        """Return the summed squared distance from the one-hot label."""
        wanted = torch.nn.functional.one_hot(labels, log_probabilities.shape[1])
        return ((log_probabilities.exp() - wanted) ** 2).sum()
