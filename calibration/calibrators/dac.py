"""Distance-aware calibration: damp predictions of classes whose text features moved away.

For class j, ``d_t(j)`` is the mean L2 distance of its tuned text feature to its k nearest tuned
text features of base classes (those seen in training) and ``d_zs(j)`` the same with the zero-shot
model's features. Logits of an image predicted as j are multiplied by
``exp(-d_t(j)) / exp(-d_zs(j))``; classes that are base classes themselves are left alone. Nothing
is fitted.

Source: Wang, Wang, Tao, Wang, Tang, Xu, Wei, "Open-vocabulary calibration for fine-tuned CLIP",
ICML 2024, arXiv 2402.04655.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._tensors import (
    as_logits,
    check_number,
    check_whole,
)
from fl2ora.calibration.calibrators._training_free import TrainingFree
from fl2ora.calibration.calibrators.base import CalibrationContext, Parameters


class Dac(TrainingFree):
    """Multiply the logits by a factor of the predicted class; no parameters.

    Args:
        neighbours: k; all base classes where there are fewer.
        base_distance: a class whose nearest tuned base feature is closer counts as a base class.
    """

    exact: ClassVar[bool] = True
    preserves_argmax: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset(
        {
            "text_features",
            "zero_shot_text_features",
            "base_text_features",
            "base_zero_shot_text_features",
        }
    )

    def __init__(self, neighbours: int = 5, base_distance: float = 0.05) -> None:
        self.neighbours = check_whole("neighbours", neighbours, 1)
        self.base_distance = check_number("base_distance", base_distance)

    def apply(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return the log-softmax of the damped logits.

        Raises:
            ValueError: the context lacks features, or their shapes do not fit.
        """
        z = as_logits(logits)
        factors = self.factors(context or CalibrationContext())
        if len(factors) != z.shape[1]:
            raise ValueError(
                f"dac: text_features: expected {z.shape[1]} rows, one per class, "
                f"found {len(factors)}"
            )
        return (z * factors[z.argmax(dim=1)][:, None]).log_softmax(dim=1)

    def factors(self, context: CalibrationContext) -> Tensor:
        """Return the factor of every class, ``(K,)`` float64.

        Raises:
            ValueError: the context lacks features, or their shapes do not fit.
        """
        nearest, tuned = self._distances(context, "text_features", "base_text_features")
        _, zero_shot = self._distances(
            context, "zero_shot_text_features", "base_zero_shot_text_features"
        )
        if tuned.shape != zero_shot.shape:
            raise ValueError(
                f"dac: zero_shot_text_features: expected {len(tuned)} rows as text_features, "
                f"found {len(zero_shot)}"
            )
        factors = (zero_shot - tuned).exp()
        return torch.where(nearest < self.base_distance, torch.ones_like(factors), factors)

    def _distances(
        self, context: CalibrationContext, name: str, base: str
    ) -> tuple[Tensor, Tensor]:
        """Return each class's distance to the nearest base class and the mean to k of them."""
        rows, others = (context.require(n, "dac").detach().cpu().double() for n in (name, base))
        fitting = rows.ndim == others.ndim == 2 and rows.shape[1] == others.shape[1]
        if not fitting or not len(others):
            raise ValueError(
                f"dac: expected {name} (K, D) and {base} (B, D) with B >= 1, "
                f"found {tuple(rows.shape)} and {tuple(others.shape)}"
            )
        distances = torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")
        ordered = distances.sort(dim=1).values[:, : self.neighbours]
        return ordered[:, 0], ordered.mean(dim=1)
