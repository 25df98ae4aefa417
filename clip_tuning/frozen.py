"""Tables of what training cannot change of images; see ``ClipClassifier.frozen_images``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fl2ora.clip_tuning.classifier import ClipClassifier, lasting
from fl2ora.clip_tuning.feature_cache import FeatureCache, digest
from fl2ora.clip_tuning.preprocessing import Augmentation


@dataclass(frozen=True)
class Views:
    """How images are seen before they are encoded.

    Attributes:
        augmentation: of every view.
        count: random views of each image, drawn once; 1 without augmentation.
        seed: of the draws.
    """

    augmentation: Augmentation = "none"
    count: int = 1
    seed: int = 0


PLAIN = Views()
_DRAWN = 64  # images augmented at once, a fixed number: how many decides what is drawn
_FORMAT = 1  # goes up when the same model, images and views come to give other values


def begin_all(
    classifier: ClipClassifier,
    images: Tensor,
    batch_size: int = 256,
    views: Views = PLAIN,
) -> Tensor:
    """Return what ``begin`` makes of raw ``images (N, C, H, W)`` uint8, N at least 1.

    It lies on the CPU, carries no gradient, and may be used in training. View v of image i is in
    row ``v N + i``.

    Args:
        classifier: has a frozen start; it is put into evaluation mode.
        images: raw.
        batch_size: images encoded at once; changes nothing but memory.
        views: of the images.
    """
    start = classifier.frozen_images
    assert start is not None
    classifier.eval()
    rng = torch.Generator().manual_seed(views.seed)
    device, rows, done = classifier.clip.device, None, 0
    with lasting(device):
        drawn = batch_size if views.augmentation == "none" else _DRAWN
        for pixels in _seen(classifier, images, views, drawn, rng):
            for part in pixels.split(batch_size):
                begun = start.begin(part).cpu()
                if rows is None:  # at once, since two copies of hidden states may be too many
                    rows = begun.new_empty((views.count * len(images), *begun.shape[1:]))
                rows[done : done + len(part)] = begun
                done += len(part)
    assert rows is not None
    return rows


def _seen(
    classifier: ClipClassifier, images: Tensor, views: Views, at_once: int, rng: torch.Generator
) -> Iterator[Tensor]:
    """Yield the preprocessed views of all images, some at a time."""
    for _ in range(views.count):
        for part in images.split(at_once):
            raw = part.to(classifier.clip.device)
            yield classifier.preprocessing.training(raw, views.augmentation, rng)


def table_key(classifier: ClipClassifier, images: str, views: Views = PLAIN) -> str:
    """Return a key of everything a table depends on: model, preprocessing, images and views.

    Args:
        classifier: has a frozen start.
        images: digest of the raw images.
        views: of the images.
    """
    start = classifier.frozen_images
    assert start is not None
    parts = (_FORMAT, start.name, classifier.vision_digest, classifier.preprocessing, views, images)
    return digest([], *parts)


def table(
    classifier: ClipClassifier,
    images: Tensor,
    cache: FeatureCache,
    key: str,
    batch_size: int = 256,
    views: Views = PLAIN,
) -> Tensor | None:
    """Return ``begin_all`` of the images from the cache; None where it has no room for it."""

    def size() -> int:
        return begin_all(classifier, images[:1]).nbytes * len(images) * views.count

    return cache.get(key, size, lambda: begin_all(classifier, images, batch_size, views))
