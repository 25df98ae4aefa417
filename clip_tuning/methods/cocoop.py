"""CoCoOp: context vectors shifted by every image.

Zhou et al. 2022, arXiv 2203.05557.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.context import ContextClassifier
from fl2ora.clip_tuning.methods._sizes import hidden_units
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.prompt_layout import ContextSettings
from fl2ora.clip_tuning.towers import width
from fl2ora.experiment.arguments import whole


class CoCoOp(TuningMethod):
    """Context ``v + h(f)`` for an image with unit feature f: 35,360 parameters on ViT-B/16.

    h is a network of one hidden layer, D / reduction wide. Every image has class features of its
    own, so a batch costs B * K text passes, in training and at test time: keep batches small.

    Args:
        length: how many vectors.
        reduction: the hidden layer has D / reduction units.
        init: see ``coop``.
    """

    learning_rates = Rates(
        embedded=0.3,
        published=0.002,
        source="Zhou et al. 2022: SGD, batches of one image",
    )

    def __init__(self, length: int = 4, reduction: int = 16, init: str = "template") -> None:
        self.settings = ContextSettings(whole("length", length, at_least=1), init)
        self.reduction = whole("reduction", reduction, at_least=1)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``context (n, d)`` and the network ``shift``.

        Raises:
            ValueError: the reduction leaves no unit.
        """
        size = clip.feature_size
        hidden = hidden_units(size, self.reduction)
        classifier = _ConditionalClassifier(clip, class_names, templates, self.settings)
        classifier.shift = nn.Sequential(
            nn.Linear(size, hidden),
            nn.ReLU(),
            nn.Linear(hidden, width(clip.model, "text")),
        )
        return classifier.tune_own(images_frozen=True)


class _ConditionalClassifier(ContextClassifier):
    """Class features that depend on the image; ``encode_classes`` returns those without shift."""

    shift: nn.Sequential

    def logits(self, images: Tensor, classes: Tensor) -> Tensor:
        """Return ``(B, K)`` logits of unit features ``(B, D)``; ``classes`` is not used."""
        rows = [
            super(_ConditionalClassifier, self).logits(
                image[None], self.encode_with(self.context + shift)
            )
            for image, shift in zip(images, self.shift(images), strict=True)
        ]
        return torch.cat(rows) if rows else images.new_zeros((0, len(self.class_names)))
