"""CLIP-Adapter: a small network on the image feature, mixed with the feature itself.

Gao et al. 2021, arXiv 2110.04544.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods._sizes import hidden_units
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.prefix.image_prefix import ImagePrefix
from fl2ora.experiment.arguments import number, whole


class CLIPAdapter(TuningMethod):
    """Image feature ``ratio * ReLU(W2 ReLU(W1 f)) + (1 - ratio) * f``; 131,072 parameters on B/16.

    The network starts at random, so the first logits are near zero-shot CLIP's, not equal.

    Args:
        ratio: weight of the network's output; with 0 it has no effect.
        reduction: the hidden layer has D / reduction units.
    """

    learning_rates = Rates(
        embedded=0.3,
        published=0.008,
        source="none for SGD: the embedded model's over (100 / 16.7)^2, by the logit scales",
    )

    def __init__(self, ratio: float = 0.2, reduction: int = 4) -> None:
        self.ratio = number("ratio", ratio, at_least=0, at_most=1)
        self.reduction = whole("reduction", reduction, at_least=1)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``adapter.0.weight (D / reduction, D)`` and ``adapter.2.weight (D, D / reduction)``.

        Raises:
            ValueError: the reduction leaves no unit.
        """
        size = clip.feature_size
        hidden = hidden_units(size, self.reduction)
        classifier = _AdapterClassifier(clip, class_names, templates)
        classifier.ratio = self.ratio
        classifier.adapter = nn.Sequential(
            nn.Linear(size, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, size, bias=False),
            nn.ReLU(),
        )
        return classifier.tune_own(classes_frozen=True)


class _AdapterClassifier(ClipClassifier):
    """Refines image features.

    Without biases the network keeps scale, so unit features serve as well as raw ones.
    """

    ratio: float
    adapter: nn.Sequential

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return ``(B, D)`` unit features of ``pixels (B, 3, H, W)``."""
        return self.refine(super().encode_images(pixels))

    @property
    def image_prefix(self) -> ImagePrefix:
        """CLIP's own features; the network comes after them."""
        return ImagePrefix("CLIP's features", super().encode_images, self.refine)

    def refine(self, features: Tensor) -> Tensor:
        """Return ``(B, D)`` unit features of CLIP's own, ``(B, D)``."""
        return unit(self.ratio * self.adapter(features) + (1 - self.ratio) * features)
