"""Dispersion of the class features, for prompts that keep them apart.

Three forms over unit features ``w_j``, W their ``(K, D)`` matrix; each is a penalty that falls
as features spread:

- ``distance``: ``-(1/K) sum_j |w_j - mean w|``, the negative average text feature dispersion
  (C-TPT, weight 50 on fine-grained sets, 20 on ImageNet variants);
- ``orthogonality``: ``mean_j | |(W W^T)_j| - 1 |`` over rows, which O-TPT's code computes
  (weight 18 or 2);
- ``gram``: ``|W W^T - I|^2``, the sum of squares of O-TPT's text.

Cautions: the sources use these at test time, per sample, so the weights are no guide for
training. More than D features cannot be orthogonal. No gradient where only the image side is
tuned.

Source: Yoon et al., ICLR 2024, arXiv:2403.14119; Sharifdeen et al., CVPR 2025, arXiv:2503.12096.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl2ora.calibration.losses._arguments import choice
from fl2ora.calibration.losses._batch import safe_sqrt, unit
from fl2ora.calibration.losses.base import Loss, LossContext


class Dispersion(Loss):
    """How little the class features spread.

    Args:
        form: ``distance``, ``orthogonality`` or ``gram``.
    """

    is_penalty = True
    needs = frozenset({"text_features"})

    def __init__(self, form: str = "distance") -> None:
        self.form = choice("form", form, ("distance", "orthogonality", "gram"))

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty; ``logits (B, K)`` and ``labels (B,)`` are not used."""
        features = unit(self.require(context.text_features, "text_features"))
        if self.form == "distance":
            return -safe_sqrt((features - features.mean(0)).square().sum(1)).mean()
        gram = (features[:, None, :] * features[None, :, :]).sum(2)
        if self.form == "orthogonality":
            return (safe_sqrt(gram.square().sum(1)) - 1).abs().mean()
        identity = torch.eye(len(features), dtype=gram.dtype, device=gram.device)
        return (gram - identity).square().sum()
