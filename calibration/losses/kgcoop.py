"""KgCoOp's regulariser: ``1 - mean_j cos(w_j, w_j^zs)`` of tuned and zero-shot class features.

A penalty in [0, 2]: the authors' code weighs it 8. The paper writes the mean squared distance of
unit features, which is twice this value, so its weight is 4. It is 0 without gradient where only
the image side is tuned.

Source: Yao, Zhang, Xu, CVPR 2023, arXiv:2303.13283.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.calibration.losses._batch import check_shape, unit
from fl2ora.calibration.losses.base import Loss, LossContext


class Kgcoop(Loss):
    """Mean cosine distance of the class features to their zero-shot values."""

    is_penalty = True
    needs = frozenset({"text_features", "zero_shot_text_features"})

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty; ``logits (B, K)`` and ``labels (B,)`` are not used."""
        tuned = unit(self.require(context.text_features, "text_features"))
        frozen = unit(self.require(context.zero_shot_text_features, "zero_shot_text_features"))
        check_shape("zero_shot_text_features", frozen, tuned.shape)
        return 1 - (tuned * frozen.detach()).sum(1).mean()
