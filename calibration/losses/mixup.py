"""Mixup: cross-entropy on convex combinations of images and of their labels.

A batch becomes ``w x_i + (1 - w) x_j`` with j a random order and one weight ``w`` drawn from
Beta(alpha, alpha); the loss is ``mean_i w(-ln p_iy_i) + (1 - w)(-ln p_iy_j)``. A full loss.
Thulasidasan et al. find alpha 0.2 to 0.4 good for calibration.

Caution: every other term of a sum sees the mixed images with the first labels alone, which
batch statistics such as ``dca`` take for errors.

Source: Zhang, Cisse, Dauphin, Lopez-Paz, 2018, arXiv:1710.09412; Thulasidasan et al., 2019,
arXiv:1905.11001.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import check_shape, read
from fl2ora.calibration.losses.base import Loss, LossContext, Mixed


class Mixup(Loss):
    """Cross-entropy of mixed images under the labels of both sources.

    Args:
        alpha: both parameters of the Beta distribution of the weight, > 0.
    """

    needs = frozenset({"mixed_labels", "mixing_weight"})

    def __init__(self, alpha: float = 0.2) -> None:
        self.alpha = number("alpha", alpha, above=0)

    def mix(self, images: Tensor, labels: Tensor, generator: Generator) -> Mixed | None:
        """Mix ``images (B, ...)`` with themselves in random order by one random weight.

        Equal states of ``generator`` give equal mixtures on one kind of device.
        """
        device = generator.device
        seed = int(torch.randint(2**62, (1,), generator=generator, device=device).item())
        weight = float(np.random.default_rng(seed).beta(self.alpha, self.alpha))
        order = torch.randperm(len(images), generator=generator, device=device)
        order = order.to(labels.device)
        mixed = weight * images + (1 - weight) * images[order.to(images.device)]
        return mixed, labels[order], weight

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar loss of ``logits (B, K)`` and ``labels (B,)`` of a mixed batch."""
        others = self.require(context.mixed_labels, "mixed_labels")
        check_shape("mixed_labels", others, labels.shape)
        first, second = read(logits, labels).log_py, read(logits, others).log_py
        weight = context.mixing_weight
        return -(weight * first + (1 - weight) * second).mean()
