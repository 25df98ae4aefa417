"""FedOTP: a global and a local prompt that share out an image's patches by optimal transport.

Li et al. 2024, arXiv 2403.00041.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.context import ContextClassifier
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.prompt_layout import ContextSettings
from fl2ora.clip_tuning.transport import transport_plan
from fl2ora.experiment.arguments import number, whole


class FedOTP(TuningMethod):
    """Two contexts, of which a client sends the global one: 8,192 of 16,384 parameters on ViT-B/16.

    The logit of a class is ``exp(logit_scale) * sum_mn T_mn cos(patch_m, prompt_n)``. The plan T
    moves ``mass`` from the image's patches, ``1 / M`` each at most, to the class's prompts in equal
    parts, at the cost ``1 - cos``; no gradient goes through it. The global part on its own is the
    same with one prompt. It does not start at zero-shot CLIP, whose text features were never
    trained to meet patches.

    Args:
        length: context vectors in each prompt.
        mass: how much is moved, in (0, 1]; with less than 1 patches far from both prompts count
            little, and all logits shrink by it.
        epsilon: entropy of the plan.
        init: of both contexts; see ``coop``.
    """

    learning_rates = Rates(
        embedded=0.003,
        published=0.001,
        source="Li et al. 2024: SGD",
    )

    def __init__(
        self, length: int = 16, mass: float = 1.0, epsilon: float = 0.1, init: str = "noise"
    ) -> None:
        self.settings = ContextSettings(whole("length", length, at_least=1), init)
        self.mass = number("mass", mass, above=0, at_most=1)
        # Costs lie in [0, 2], and exp(-80) is about the least a float32 holds.
        self.epsilon = number("epsilon", epsilon, at_least=0.025)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``context (n, d)``, and ``local_context (n, d)`` on each client."""
        classifier = _TransportClassifier(clip, class_names, templates, self.settings)
        classifier.local_context = nn.Parameter(classifier.initial_context())
        classifier.mass, classifier.epsilon = self.mass, self.epsilon
        return classifier.tune_own(personal=("local_context",), images_frozen=True)


class _TransportClassifier(ContextClassifier):
    """Images are ``(B, 1 + M, D)``, CLIP's own feature and the patches; classes ``(K, N, D)``."""

    local_context: nn.Parameter
    mass: float
    epsilon: float

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return ``(B, 1 + M, D)`` unit features: the image's, then its M patches'."""
        vision = self.clip.vision_model
        tokens = vision(pixel_values=pixels).last_hidden_state
        return unit(self.clip.visual_projection(vision.post_layernorm(tokens)))

    def encode_classes(self) -> Tensor:
        """Return ``(K, N, D)`` unit features: of the global prompt, and a client's of its own."""
        prompts = [self.context, *([self.local_context] if self.personalised else [])]
        return torch.stack([self.encode_with(context) for context in prompts], dim=1)

    def pooled_images(self, images: Tensor) -> Tensor:
        """Return ``(B, D)``, CLIP's own features."""
        return images[:, 0]

    def pooled_classes(self, classes: Tensor) -> Tensor:
        """Return ``(K, D)``, those of the global prompt."""
        return classes[:, 0]

    def logits(self, images: Tensor, classes: Tensor) -> Tensor:
        """Return ``(B, K)`` float32 logits of ``(B, 1 + M, D)`` and ``(K, N, D)``."""
        with torch.autocast(images.device.type, enabled=False):
            cosines = torch.einsum("bmd,knd->bkmn", images[:, 1:].float(), classes.float())
            plan = transport_plan(1 - cosines.detach(), self.mass, self.epsilon)
            scale: Tensor = self.clip.logit_scale.exp()
            return scale * (plan * cosines).sum(dim=(-2, -1))
