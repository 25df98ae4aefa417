"""Sample-adaptive logit scaling: give every image the logit range it had before tuning.

``z' = (z - min z) / (max z - min z) (max z_zs - min z_zs) + min z_zs`` with z_zs the frozen
zero-shot logits of the same image. Nothing is fitted.

Source: Murugesan, Silva-Rodríguez, Ben Ayed, Dolz, "Robust calibration of large vision-language
adapters", ECCV 2024, arXiv 2407.13588.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._tensors import as_logits
from fl2ora.calibration.calibrators._training_free import TrainingFree
from fl2ora.calibration.calibrators.base import CalibrationContext, Parameters


class Sals(TrainingFree):
    """Rescale every row of logits to the range of its zero-shot logits; no parameters.

    A row of equal logits becomes the constant ``min z_zs``, a uniform prediction.
    """

    exact: ClassVar[bool] = True
    preserves_argmax: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"zero_shot_logits"})

    def apply(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return the log-softmax of the rescaled logits.

        Raises:
            ValueError: the context lacks zero-shot logits, or they have another shape.
        """
        z = as_logits(logits)
        context = context or CalibrationContext()
        zero_shot = as_logits(context.require("zero_shot_logits", "sals"))
        if zero_shot.shape != z.shape:
            raise ValueError(
                f"sals: zero_shot_logits: expected shape {tuple(z.shape)}, "
                f"found {tuple(zero_shot.shape)}"
            )
        low, width = _range(z)
        zero_shot_low, zero_shot_width = _range(zero_shot)
        share = torch.where(width > 0, (z - low) / width, torch.zeros_like(z))
        return (share * zero_shot_width + zero_shot_low).log_softmax(dim=1)


def _range(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least logit of every row and the distance to the greatest, ``(N, 1)`` each."""
    low, high = logits.aminmax(dim=1, keepdim=True)
    return low, high - low
