"""Tip-Adapter: a cache of image features that votes beside zero-shot CLIP, without training.

Zhang et al. 2021, arXiv 2111.03930.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import NOTHING_TRAINED, TuningMethod
from fl2ora.experiment.arguments import number, whole


class TipAdapter(TuningMethod):
    """Zero-shot logits plus ``alpha * sum_s exp(-beta * (1 - cos(image, row_s)))`` of each class.

    Every class has ``shots`` rows, the directions of sums of its images' features: each client
    deals its images of a class out to the rows in turn, from a row of its own. FedAvg's mean of the
    clients' rows, divided by the numbers of their images, gives exactly the rows of the pooled
    data. One client with ``shots`` images per class has the original's cache. Nothing is trained,
    so one round with every client is enough; where clients are sampled, the cache is that of the
    last round's clients. Rows without images do not vote.

    A row of few images is nearly those images' features. Whoever sees the cache sees them: fewer
    shots mean more images to a row, and more privacy.

    Args:
        shots: S, rows per class; the cache has ``K * S * D`` values.
        alpha: weight of the votes, beside logits of CLIP's scale (100 in OpenAI's models).
        beta: sharpness of the votes.
    """

    learning_rates = NOTHING_TRAINED

    def __init__(self, shots: int = 16, alpha: float = 1.17, beta: float = 1.0) -> None:
        self.shots = whole("shots", shots, at_least=1)
        self.alpha = number("alpha", alpha, at_least=0)
        self.beta = number("beta", beta, above=0)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Carry ``cache (K, S, D)``, empty at first: the first logits are zero-shot CLIP's."""
        classifier = CacheClassifier(clip, class_names, templates)
        self.give_cache(classifier)
        classifier.tune({}, images_frozen=True, classes_frozen=True)
        return classifier

    def give_cache(self, classifier: CacheClassifier) -> None:
        """Give it an empty cache, which travels."""
        names = classifier.class_names
        size = classifier.zero_shot_names(names[:1]).shape[1]
        empty = torch.zeros(len(names), self.shots, size)
        classifier.cache = nn.Parameter(empty, requires_grad=False)
        classifier.alpha, classifier.beta = self.alpha, self.beta
        classifier.carried = {"cache": classifier.cache}


class CacheClassifier(ClipClassifier):
    """Zero-shot CLIP with a cache."""

    gathers = True
    cache: nn.Parameter
    alpha: float
    beta: float

    def keys(self) -> Tensor:
        """Return ``(K, S, D)`` directions of the rows; zeros for those without images."""
        return unit(self.cache)

    def logits(self, images: Tensor, classes: Tensor) -> Tensor:
        """Return ``(B, K)`` logits of unit features ``(B, D)`` and ``(K, D)``, votes included."""
        with torch.autocast(images.device.type, enabled=False):
            cosines = torch.einsum("bd,ksd->bks", images.float(), self.keys())
            votes = torch.exp(-self.beta * (1 - cosines)) * self.cache.any(dim=-1)
            return super().logits(images, classes) + self.alpha * votes.sum(dim=-1)

    @torch.no_grad()
    def gather(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> None:
        """Set the cache to sums of ``images (N, D)`` by class and row, divided by N."""
        num_classes, shots, _ = self.cache.shape
        classes = one_hot(labels, num_classes)
        turns = (classes.cumsum(dim=0) - 1).gather(1, labels[:, None])[:, 0]
        first = int(torch.randint(shots, (), generator=rng))
        places = labels * shots + (turns + first) % shots
        sums = torch.zeros_like(self.cache).flatten(0, 1).index_add_(0, places, images.float())
        self.cache.copy_((sums / len(images)).view_as(self.cache))
