"""Linear probe: a linear classifier on frozen image features.

Radford et al. 2021, arXiv 2103.00020; starting from the class features as in WiSE-FT (Wortsman et
al. 2021, arXiv 2109.01903).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.experiment.arguments import choice


class LinearProbe(TuningMethod):
    """Logits ``exp(logit_scale) * (W f + b)`` of unit image features f: K (D + 1) parameters.

    Args:
        init: ``text``: W holds the templates' class features, so the first logits are zero-shot
            CLIP's; ``zero``: the first logits are 0.
        bias: whether there is b, 0 at first.
    """

    learning_rates = Rates(
        embedded=0.003,
        published=0.0001,
        source="none for SGD: the embedded model's over (100 / 16.7)^2, by the logit scales",
    )

    def __init__(self, init: str = "text", bias: bool = True) -> None:
        self.init = choice("init", init, ("text", "zero"))
        self.bias = bias

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``weight (K, D)`` and ``bias (K,)``."""
        classifier = _LinearProbeClassifier(clip, class_names, templates)
        start = classifier.zero_shot_classes()
        classifier.weight = nn.Parameter(torch.zeros_like(start) if self.init == "zero" else start)
        classifier.bias = nn.Parameter(torch.zeros_like(start[:, 0])) if self.bias else None
        return classifier.tune_own(images_frozen=True)


class _LinearProbeClassifier(ClipClassifier):
    """Classes are rows of a weight, which need not have length 1."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def encode_classes(self) -> Tensor:
        """Return the weight, ``(K, D)``."""
        return self.weight

    def logits(self, images: Tensor, classes: Tensor) -> Tensor:
        """Return ``(B, K)`` logits of unit features ``(B, D)`` and weights ``(K, D)``."""
        scores = super().logits(images, classes)
        if self.bias is None:
            return scores
        scale: Tensor = self.clip.logit_scale.exp()
        return scores + scale * self.bias
