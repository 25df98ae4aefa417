"""Stochastic gradient descent, the optimiser of FL2oRA and of the strategies' papers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fl2ora.clip_tuning.optimisers.base import Optimiser
from fl2ora.experiment.arguments import number


class Sgd(Optimiser):
    """``v <- momentum v + (g + weight_decay theta)``, ``theta <- theta - rate v``.

    Args:
        momentum: in [0, 1); v starts anew every round.
        weight_decay: added to the gradient, times what is trained.
        nesterov: step along ``g + weight_decay theta + momentum v`` instead; needs momentum.
    """

    def __init__(
        self, momentum: float = 0.9, weight_decay: float = 5e-4, nesterov: bool = False
    ) -> None:
        self.momentum = number("momentum", momentum, at_least=0, below=1)
        self.weight_decay = number("weight_decay", weight_decay, at_least=0)
        self.nesterov = nesterov
        if nesterov and not momentum:
            raise ValueError("nesterov: expected False without momentum, found True")

    def make(
        self, parameters: Sequence[nn.Parameter], learning_rate: float
    ) -> torch.optim.Optimizer:
        """Return ``torch.optim.SGD``."""
        return torch.optim.SGD(
            parameters,
            lr=learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )
