"""FedPGP: a shared context, and a low-rank change of it on each client.

Cui et al. 2024, arXiv 2405.09771.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.context import ContextClassifier, noise
from fl2ora.clip_tuning.forward_pass import ForwardPass
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.prompt_layout import ContextSettings
from fl2ora.experiment.arguments import number, whole


class FedPGP(TuningMethod):
    """Context ``S + U V``: a client sends S and keeps U and V, 8,192 and 2,112 on ViT-B/16.

    Added to the loss is ``weight`` times a contrast of class features: those of S should be nearer
    to zero-shot CLIP's than to the client's own. Per class, with temperature t, it is the
    cross-entropy of ``(cos(w_S, w_zs), cos(w_S, w_S+UV)) / t`` with the first as the answer. As in
    the paper, w_zs are the templates' features; the authors' code has placeholder words instead.

    Args:
        length: n, how many vectors.
        rank: b of ``U (n, b)`` and ``V (b, d)``.
        weight: of the contrast.
        temperature: of the contrast.
        init: of S; see ``coop``. U and V are noise.
    """

    learning_rates = Rates(
        embedded=0.03,
        published=0.001,
        source="the code of Cui et al. 2024: SGD",
    )

    def __init__(
        self,
        length: int = 16,
        rank: int = 4,
        weight: float = 1.0,
        temperature: float = 0.5,
        init: str = "noise",
    ) -> None:
        self.settings = ContextSettings(whole("length", length, at_least=1), init)
        self.rank = whole("rank", rank, at_least=1)
        self.weight = number("weight", weight, at_least=0)
        self.temperature = number("temperature", temperature, above=0)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``context (n, d)``, and ``left (n, b)`` and ``right (b, d)`` on each client."""
        classifier = _SharedClassifier(clip, class_names, templates, self.settings)
        length, width = classifier.context.shape
        classifier.left = nn.Parameter(noise(length, self.rank, like=classifier.context))
        classifier.right = nn.Parameter(noise(self.rank, width, like=classifier.context))
        classifier.weight, classifier.temperature = self.weight, self.temperature
        return classifier.tune_own(personal=("left", "right"), images_frozen=True)


class _SharedClassifier(ContextClassifier):
    """A context to which a client adds a product of its own."""

    left: nn.Parameter
    right: nn.Parameter
    weight: float
    temperature: float

    def make_context(self) -> Tensor:
        """Return the shared vectors ``(n, d)``, a client's with its own change."""
        return self.context + self.left @ self.right if self.personalised else self.context

    def extra_loss(self, passed: ForwardPass) -> Tensor | None:
        """Return the contrast, weighted; it costs another pass of the class prompts."""
        if not self.personalised:
            return None
        shared = self.encode_with(self.context)
        return self.weight * contrast(shared, self.guides, passed.classes, self.temperature)


def contrast(anchor: Tensor, positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """Return the mean InfoNCE loss of unit rows with one negative each.

    Args:
        anchor: ``(K, D)``.
        positive: ``(K, D)``, what each anchor should be near to.
        negative: ``(K, D)``, what it should be far from.
        temperature: cosines are divided by it.
    """
    near, far = (anchor * positive).sum(dim=1), (anchor * negative).sum(dim=1)
    answers = torch.zeros(len(anchor), dtype=torch.int64, device=anchor.device)
    return cross_entropy(torch.stack([near, far], dim=1) / temperature, answers)
