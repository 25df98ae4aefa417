"""TaskRes: a residual on every class feature.

Yu et al. 2022, arXiv 2211.10277.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.experiment.arguments import number


class TaskRes(TuningMethod):
    """Class features ``w + scale * x`` with w zero-shot and x ``(K, D)`` in training.

    x starts at 0, so the first logits are zero-shot CLIP's. Here w has length 1; the authors' code
    adds to features as the tower gives them, several times longer, so the same scale moves less
    there.

    Args:
        scale: alpha of the paper, 0.5 there (1 on Flowers102).
    """

    learning_rates = Rates(
        embedded=0.3,
        published=0.008,
        source="none for SGD (Adam 2e-3): the embedded model's over (100 / 16.7)^2",
    )

    def __init__(self, scale: float = 0.5) -> None:
        self.scale = number("scale", scale, above=0)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``residual (K, D)``."""
        classifier = _ResidualClassifier(clip, class_names, templates)
        start = classifier.zero_shot_classes()
        classifier.register_buffer("start", start, persistent=False)
        classifier.residual = nn.Parameter(torch.zeros_like(start))
        classifier.scale = self.scale
        return classifier.tune_own(images_frozen=True)


class _ResidualClassifier(ClipClassifier):
    """Moves class features away from where they start."""

    start: Tensor
    residual: nn.Parameter
    scale: float

    def encode_classes(self) -> Tensor:
        """Return ``(K, D)`` unit features."""
        return unit(self.start + self.scale * self.residual)
