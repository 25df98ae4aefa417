"""Prefix features of many images; see ``ImagePrefix``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fl2ora.clip_tuning.at_once import results
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.image_source import Images, batches, for_crops
from fl2ora.clip_tuning.prefix.image_prefix import ImagePrefix, lasting
from fl2ora.clip_tuning.preprocessing import Augmentation

_DRAWN = 64  # images augmented at once, a fixed number: how many decides what is drawn


@dataclass(frozen=True)
class Views:
    """How images are seen before they are encoded.

    Attributes:
        augmentation: of every view.
        count: random views of each image; 1 without augmentation.
        seed: of the draws.
    """

    augmentation: Augmentation = "none"
    count: int = 1
    seed: int = 0


PLAIN = Views()


def prefix_features(
    classifier: ClipClassifier,
    images: Images,
    batch_size: int = 256,
    views: Views = PLAIN,
    at_once: int = 1,
) -> Tensor:
    """Return the prefix features of raw ``images (N, C, H, W)`` uint8, N at least 1.

    They lie on the CPU in float32, carry no gradient, and may be used in training. Those of view v
    of image i are in row ``v N + i``.

    Args:
        classifier: has an ``image_prefix``; it is put into evaluation mode.
        images: raw.
        batch_size: images encoded at once; changes nothing but memory.
        views: of the images.
        at_once: batches computed at once; see ``predict``.
    """
    prefix = prefix_of(classifier)
    classifier.eval()

    def computed(pixels: Tensor) -> Tensor:
        with lasting(classifier.clip.device):  # in this thread
            return prefix.compute(pixels).cpu()

    rows, done = None, 0
    with lasting(classifier.clip.device):
        for features in results(computed, _seen(classifier, images, batch_size, views), at_once):
            if rows is None:  # at once, since two copies of hidden states may be too many
                rows = features.new_empty((views.count * len(images), *features.shape[1:]))
            rows[done : done + len(features)] = features
            done += len(features)
    assert rows is not None
    return rows


def bytes_needed(classifier: ClipClassifier, images: Images, views: Views = PLAIN) -> int:
    """Return how many bytes ``prefix_features`` of these images will have."""
    return prefix_features(classifier, images[:1]).nbytes * len(images) * views.count


def _seen(
    classifier: ClipClassifier, images: Images, batch_size: int, views: Views
) -> Iterator[Tensor]:
    """Yield the preprocessed views of all images, at most ``batch_size`` at a time."""
    device, preprocessing = classifier.clip.device, classifier.preprocessing
    if views.augmentation == "none":
        for part in batches(images, batch_size):
            yield preprocessing.evaluation(images[part].to(device))
        return
    rng = torch.Generator().manual_seed(views.seed)
    for _ in range(views.count):
        for part in batches(images, _DRAWN):
            raw, shapes = images[part], None
            if views.augmentation == "crop_flip":
                raw, shapes = for_crops(images, part)
            drawn = preprocessing.training(raw.to(device), views.augmentation, rng, shapes)
            yield from drawn.split(batch_size)


def prefix_of(classifier: ClipClassifier) -> ImagePrefix:
    """Return the prefix of a classifier that has one."""
    prefix = classifier.image_prefix
    assert prefix is not None
    return prefix
