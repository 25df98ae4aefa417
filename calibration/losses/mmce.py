"""MMCE, maximum mean calibration error: the norm of the gaps' mean embedding.

``sqrt((1/B^2) sum_ij (a_i - c_i)(a_j - c_j) k_ij)`` with the Laplacian kernel
``k_ij = exp(-|c_i - c_j| / bandwidth)``, ``c_i`` the top probability and ``a_i`` the correctness.
A penalty: published weights are 2 (MDCA's code), 1 (MbLS's configuration), 2 to 8 searched.

Cautions: correctness carries no gradient. A batch statistic, biased upwards for small batches.
A widely copied implementation returns the square of this value; weights tuned there differ.

Source: Kumar, Sarawagi, Jain, "Trainable calibration measures for neural networks from kernel
mean embeddings", ICML 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl2ora.calibration.losses._arguments import number
from fl2ora.calibration.losses._batch import read, safe_sqrt
from fl2ora.calibration.losses.base import Loss, LossContext


def kernel_norm(weights: Tensor, confidence: Tensor, bandwidth: float) -> Tensor:
    """Return ``sqrt(sum_ij w_i w_j exp(-|c_i - c_j| / bandwidth))``.

    Args:
        weights: ``(B,)`` weights of the samples, of either sign.
        confidence: ``(B,)`` places of the samples.
        bandwidth: of the kernel.
    """
    kernel = torch.exp(-(confidence[:, None] - confidence[None, :]).abs() / bandwidth)
    return safe_sqrt((weights[:, None] * weights[None, :] * kernel).sum())


class Mmce(Loss):
    """Maximum mean calibration error, in [0, 1].

    Args:
        bandwidth: of the Laplacian kernel on confidence.
    """

    is_penalty = True

    def __init__(self, bandwidth: float = 0.4) -> None:
        self.bandwidth = number("bandwidth", bandwidth, above=0)

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)`` and ``labels (B,)``."""
        batch = read(logits, labels)
        gaps = (batch.correct - batch.confidence) / len(labels)
        return kernel_norm(gaps, batch.confidence, self.bandwidth)
