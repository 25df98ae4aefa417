"""Matrix scaling: a full linear map of the logits.

``softmax(W z + b)``; the negative log-likelihood is convex in ``(W, b)``. With K^2 + K parameters
it over-fits from about a hundred classes on; raise ``ridge``, or use vector or Dirichlet scaling.

Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", 2017,
arXiv 1706.04599.
"""

from __future__ import annotations

import torch

from fl2ora.calibration.calibrators._affine import FullAffineCalibrator
from fl2ora.calibration.calibrators._tensors import check_number
from fl2ora.calibration.calibrators.base import Parameters


class Matrix(FullAffineCalibrator):
    """Map the logits by a matrix and an offset.

    Parameters: ``weight (K, K)`` and ``bias (K,)``.

    Args:
        ridge: ``r`` of the penalty ``r / 2 (|W - I|^2 + |b|^2)`` added to the mean loss. Without
            it the fit has no finite optimum when examples are few: K^2 + K parameters separate.
        solver: ``"newton"`` (summed Hessians), ``"lbfgs"`` (summed gradients) or ``"auto"``:
            Newton up to K = 15.
        tolerance: the fit ends once no entry of the gradient per example is larger, nor, with
            L-BFGS, its length in the metric of the features' moments.
        max_steps: the most rounds.
    """

    def __init__(
        self,
        ridge: float = 1e-4,
        solver: str = "auto",
        tolerance: float = 1e-8,
        max_steps: int = 300,
    ) -> None:
        super().__init__(solver, tolerance, max_steps)
        self.ridge = check_number("ridge", ridge)

    def penalty(self, num_classes: int) -> tuple[Parameters, Parameters]:
        """Return the ridge towards the identity."""
        identity = self.identity(num_classes)
        return {k: torch.full_like(v, self.ridge) for k, v in identity.items()}, identity
