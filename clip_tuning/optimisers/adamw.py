"""Adam with decoupled weight decay: Loshchilov, Hutter 2017, arXiv 1711.05101."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fl2ora.clip_tuning.optimisers.base import Optimiser
from fl2ora.experiment.arguments import number


class AdamW(Optimiser):
    """Adam (Kingma, Ba 2014, arXiv 1412.6980), the weight decay beside it.

    Its moments start anew every round, so the first steps of a round are about ``rate`` long in
    every coordinate, however small the gradient.

    Args:
        beta1: of the mean of the gradients, in [0, 1).
        beta2: of the mean of their squares, in [0, 1).
        weight_decay: each step takes ``rate * weight_decay`` of what is trained away.
        eps: added to the root of the mean square, above 0.
    """

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        weight_decay: float = 0.01,
        eps: float = 1e-8,
    ) -> None:
        self.betas = (
            number("beta1", beta1, at_least=0, below=1),
            number("beta2", beta2, at_least=0, below=1),
        )
        self.weight_decay = number("weight_decay", weight_decay, at_least=0)
        self.eps = number("eps", eps, above=0)

    def make(
        self, parameters: Sequence[nn.Parameter], learning_rate: float
    ) -> torch.optim.Optimizer:
        """Return ``torch.optim.AdamW``."""
        return torch.optim.AdamW(
            parameters,
            lr=learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            eps=self.eps,
        )
