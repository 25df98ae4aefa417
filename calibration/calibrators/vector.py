"""Vector scaling: one factor and one offset per class.

``softmax(w * z + b)``; the negative log-likelihood is convex in ``(w, b)``, its gradient
``sum (p - y) * z`` and ``sum (p - y)``.

Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", 2017,
arXiv 1706.04599.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._affine import AffineCalibrator
from fl2ora.calibration.calibrators._tensors import check_number
from fl2ora.calibration.calibrators.base import Parameters


class Vector(AffineCalibrator):
    """Scale and shift every class's logit.

    Parameters: ``weight (K,)`` and ``bias (K,)``.

    Args:
        ridge: ``r`` of the penalty ``r / 2 (|w - 1|^2 + |b|^2)`` added to the mean loss. A class
            absent from the calibration data would otherwise send its offset to minus infinity.
        solver: ``"newton"`` (summed Hessians, 4 K^2 numbers a round, few rounds), ``"lbfgs"``
            (gradients only, more rounds) or ``"auto"``: Newton up to K = 128.
        tolerance: the fit ends once no entry of the gradient per example is larger.
        max_steps: the most rounds.
    """

    def __init__(
        self,
        ridge: float = 1e-4,
        solver: str = "auto",
        tolerance: float = 1e-6,
        max_steps: int = 200,
    ) -> None:
        super().__init__(solver, tolerance, max_steps)
        self.ridge = check_number("ridge", ridge)

    def identity(self, num_classes: int) -> Parameters:
        """Return factors of 1 and offsets of 0."""
        ones = torch.ones(num_classes, dtype=torch.float64)
        return {"weight": ones, "bias": torch.zeros_like(ones)}

    def scores(self, features: Tensor, parameters: Parameters) -> Tensor:
        """Return ``w * z + b``."""
        return features * parameters["weight"] + parameters["bias"]

    def gradient(self, features: Tensor, residuals: Tensor) -> Tensor:
        """Return the sums of ``r * z`` and ``r``, flat ``(2 K,)``."""
        return torch.cat([(residuals * features).sum(dim=0), residuals.sum(dim=0)])

    def hessian(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """Return the ``(2 K, 2 K)`` Hessian of the summed loss."""
        p, x = probabilities, features
        rows = torch.cat([p * x, p], dim=1)
        total = -rows.T @ rows
        classes = x.shape[1]
        cross = torch.diag((p * x).sum(dim=0))
        total[:classes, :classes] += torch.diag((p * x * x).sum(dim=0))
        total[:classes, classes:] += cross
        total[classes:, :classes] += cross
        total[classes:, classes:] += torch.diag(p.sum(dim=0))
        return total

    def penalty(self, num_classes: int) -> tuple[Parameters, Parameters]:
        """Return the ridge towards the identity."""
        identity = self.identity(num_classes)
        return {k: torch.full_like(v, self.ridge) for k, v in identity.items()}, identity
