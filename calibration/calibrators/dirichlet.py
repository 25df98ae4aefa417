"""Dirichlet calibration: matrix scaling of log-probabilities with off-diagonal regularisation.

``softmax(W ln p + b)``, the posterior of classes whose probability vectors are Dirichlet
distributed. The penalty ODIR, added to the mean loss, is
``off_diagonal / (K (K - 1)) sum_{i != j} w_ij^2 + intercept / K sum_j b_j^2``.

Source: Kull, Perello-Nieto, Kängsepp, Silva Filho, Song, Flach, "Beyond temperature scaling:
obtaining well-calibrated multiclass probabilities with Dirichlet calibration", 2019,
arXiv 1910.12656.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._affine import FullAffineCalibrator
from fl2ora.calibration.calibrators._tensors import check_number
from fl2ora.calibration.calibrators.base import Parameters


class Dirichlet(FullAffineCalibrator):
    """Map the log-probabilities by a matrix and an offset.

    Parameters: ``weight (K, K)`` and ``bias (K,)``.

    The diagonal is free, as in the paper: on separable data it has no finite optimum, and the fit
    ends when the gradient falls below ``tolerance`` or the rounds are spent.

    Args:
        off_diagonal: lambda of the penalty, to be chosen by cross-validation.
        intercept: mu of the penalty, to be chosen by cross-validation.
        solver: ``"newton"`` (summed Hessians), ``"lbfgs"`` (summed gradients) or ``"auto"``:
            Newton up to K = 15.
        tolerance: the fit ends once no entry of the gradient per example is larger, nor, with
            L-BFGS, its length in the metric of the features' moments.
        max_steps: the most rounds.
    """

    def __init__(
        self,
        off_diagonal: float = 1e-2,
        intercept: float = 1e-2,
        solver: str = "auto",
        tolerance: float = 1e-8,
        max_steps: int = 300,
    ) -> None:
        super().__init__(solver, tolerance, max_steps)
        self.off_diagonal = check_number("off_diagonal", off_diagonal)
        self.intercept = check_number("intercept", intercept)

    def features(self, logits: Tensor) -> Tensor:
        """Return ``ln p``."""
        return logits.log_softmax(dim=1)

    def penalty(self, num_classes: int) -> tuple[Parameters, Parameters]:
        """Return the ODIR factors, anchored at 0."""
        identity = self.identity(num_classes)
        weight = 2 * self.off_diagonal / (num_classes * (num_classes - 1))
        factors = {
            "weight": weight * (1 - identity["weight"]),
            "bias": torch.full_like(identity["bias"], 2 * self.intercept / num_classes),
        }
        return factors, {name: torch.zeros_like(value) for name, value in identity.items()}
