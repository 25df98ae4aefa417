"""PromptSRC: prompts in both towers, held near zero-shot CLIP and averaged over training.

Khattak et al. 2023, arXiv 2307.06948.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import kl_div, l1_loss

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.forward_pass import ForwardPass
from fl2ora.clip_tuning.imagenet_templates import IMAGENET_TEMPLATES
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.methods.ivlp import TwoTowerClassifier
from fl2ora.clip_tuning.prompt_layout import ContextSettings
from fl2ora.experiment.arguments import choice, number, whole


class PromptSRC(TuningMethod):
    """IVLP with three consistency losses: 46,080 parameters on ViT-B/16.

    Added to the loss: ``text_weight`` times the mean absolute difference of tuned and zero-shot
    class features (unit, D values each), ``image_weight`` times that of image features, and
    ``sum KL(zero-shot || tuned) / (B K)`` of the predictions.

    The paper's final weights are a Gaussian-weighted mean over epochs. In a federation, rounds take
    the place of epochs: the run's result is that mean of the global adapters after each round.

    Args:
        length: prompts per block and tower.
        depth: blocks from the input with prompts of their own; 0 stands for three quarters of
            them, 9 of 12.
        text_weight: of the class features' consistency.
        image_weight: of the image features' consistency.
        mean: of the Gaussian over rounds, counted from 1; 0 stands for three quarters of them, 15
            of 20.
        deviation: of the Gaussian, in rounds.
        init: see ``ivlp``.
        guide: whose zero-shot class features the losses hold to: those of the data's own
            ``templates``, or of the authors' 60 ``imagenet`` templates. Either way they are the
            mean of the templates' unit features, normalised again.
    """

    learning_rates = Rates(
        embedded=0.03,
        published=0.0025,
        source="Khattak et al. 2023: SGD",
    )

    def __init__(
        self,
        length: int = 4,
        depth: int = 0,
        text_weight: float = 25.0,
        image_weight: float = 10.0,
        mean: float = 0.0,
        deviation: float = 1.0,
        init: str = "template",
        guide: str = "templates",
    ) -> None:
        self.settings = ContextSettings(whole("length", length, at_least=1), init)
        self.depth = whole("depth", depth, at_least=0)
        self.text_weight = number("text_weight", text_weight, at_least=0)
        self.image_weight = number("image_weight", image_weight, at_least=0)
        self.mean = number("mean", mean, at_least=0, at_most=1e9)
        self.deviation = number("deviation", deviation, above=0)
        self.guide = choice("guide", guide, ("templates", "imagenet"))

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune what ``ivlp`` tunes.

        Raises:
            ValueError: a tower has fewer blocks.
        """
        classifier = _ConsistentClassifier(clip, class_names, templates, self.settings, self.depth)
        classifier.text_weight, classifier.image_weight = self.text_weight, self.image_weight
        if self.guide == "imagenet":
            classifier.guide_templates = IMAGENET_TEMPLATES
        return classifier.tune_own()

    def round_weights(self, rounds: int) -> Tensor:
        """Return the paper's weights of epochs for rounds; see ``TuningMethod.round_weights``."""
        return gaussian_weights(rounds, self.mean or 0.75 * rounds, self.deviation)


class _ConsistentClassifier(TwoTowerClassifier):
    """Prompts in both towers with PromptSRC's losses."""

    wants_zero_shot = True
    text_weight: float
    image_weight: float

    @torch.no_grad()
    def frozen_features(self, pixels: Tensor) -> Tensor:
        """Return ``(B, D)`` unit features of ``pixels (B, 3, H, W)`` without prompts."""
        return ClipClassifier.encode_images(self, pixels)

    def extra_loss(self, passed: ForwardPass) -> Tensor | None:
        """Return the three consistency losses, weighted."""
        images = passed.zero_shot
        if images is None:
            images = self.frozen_features(passed.pixels)
        with torch.no_grad():
            zero_shot = self.zero_shot_logits(images, self.guides)
        divergence = kl_div(
            passed.logits.log_softmax(dim=1),
            zero_shot.log_softmax(dim=1),
            reduction="sum",
            log_target=True,
        )
        return (
            self.text_weight * l1_loss(passed.classes, self.guides)
            + self.image_weight * l1_loss(passed.images, images)
            + divergence / passed.logits.numel()
        )


def gaussian_weights(count: int, mean: float, deviation: float) -> Tensor:
    """Return ``(count,)`` float64 weights of rounds 1 to ``count`` that sum to 1.

    A normal density at 1, 2, ..., normalised.
    """
    squares = (torch.arange(1, count + 1, dtype=torch.float64) - mean) ** 2
    # Relative to the nearest round, so that a narrow density far from all rounds has weights too.
    nearest = squares.min() if count else 0.0
    return (-0.5 * ((squares - nearest) / deviation) / deviation).softmax(dim=0)
