"""Tip-Adapter-F: Tip-Adapter whose cached features are trained on.

Zhang et al. 2021, arXiv 2111.03930.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import Rates
from fl2ora.clip_tuning.methods.tip_adapter import CacheClassifier, TipAdapter


class TipAdapterF(TipAdapter):
    """``alpha * sum_s exp(-beta * (1 - image . key_s))`` as in ``tip_adapter``, keys in training.

    A key is the direction of its row of the cache plus a residual that starts at 0, so training
    starts at ``tip_adapter``; as in the paper, a trained key has any length. The cache is gathered
    in the first round alone, by that round's clients, and is the same for all from then on; it
    takes every client in round 1 to have all their images in it. In round 1 a client trains beside
    its own rows, later beside the pooled ones. FedAvg averages cache and residuals each for itself,
    and with them the keys. Weight decay pulls a key back to where it started.

    Args:
        shots: S, rows per class; the cache and the residuals have ``K * S * D`` values each.
        alpha: weight of the votes, beside logits of CLIP's scale (100 in OpenAI's models).
        beta: sharpness of the votes.
    """

    learning_rates = Rates(
        embedded=0.3,
        published=0.3,
        source="none for SGD (AdamW 1e-3): the embedded model's",
    )

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Carry ``cache (K, S, D)`` and tune ``residual``, of the same shape."""
        classifier = _TrainedCacheClassifier(clip, class_names, templates)
        self.give_cache(classifier)
        classifier.residual = nn.Parameter(torch.zeros_like(classifier.cache))
        tuned = {"residual": classifier.residual}
        return classifier.tune(tuned, images_frozen=True, classes_frozen=True)


class _TrainedCacheClassifier(CacheClassifier):
    """Zero-shot CLIP with a cache whose keys move."""

    residual: nn.Parameter

    def keys(self) -> Tensor:
        """Return ``(K, S, D)`` keys."""
        return super().keys() + self.residual

    def gather(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> None:
        """Fill the cache if nobody has yet; see ``CacheClassifier``."""
        if not bool(self.cache.any()):
            super().gather(images, labels, rng)
