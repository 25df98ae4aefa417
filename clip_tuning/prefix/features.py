"""Prefix features of many images; see ``ImagePrefix``."""

from __future__ import annotations

import torch
from torch import Tensor

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.prefix.image_prefix import ImagePrefix, lasting
from fl2ora.clip_tuning.preprocessing import Augmentation

_DRAWN = 64  # images augmented at once, a fixed number: how many decides what is drawn


def prefix_features(
    classifier: ClipClassifier,
    images: Tensor,
    batch_size: int = 256,
    augmentation: Augmentation = "none",
    rng: torch.Generator | None = None,
) -> Tensor:
    """Return the prefix features of raw ``images (N, C, H, W)`` uint8, N at least 1.

    They lie on the CPU in float32, carry no gradient, and may be used in training.

    Args:
        classifier: has an ``image_prefix``; it is put into evaluation mode.
        images: raw.
        batch_size: images encoded at once; changes nothing but memory.
        augmentation: of the images.
        rng: of the augmentation, on the CPU; may be left out without one.
    """
    prefix = prefix_of(classifier)
    classifier.eval()
    device, rows, done = classifier.clip.device, None, 0
    preprocessing = classifier.preprocessing
    with lasting(device):
        for part in images.split(batch_size if augmentation == "none" else _DRAWN):
            raw = part.to(device)
            if augmentation == "none":
                pixels = preprocessing.evaluation(raw)
            else:
                assert rng is not None
                pixels = preprocessing.training(raw, augmentation, rng)
            for some in pixels.split(batch_size):
                features = prefix.compute(some).cpu()
                if rows is None:  # at once, since two copies of hidden states may be too many
                    rows = features.new_empty((len(images), *features.shape[1:]))
                rows[done : done + len(some)] = features
                done += len(some)
    assert rows is not None
    return rows


def prefix_of(classifier: ClipClassifier) -> ImagePrefix:
    """Return the prefix of a classifier that has one."""
    prefix = classifier.image_prefix
    assert prefix is not None
    return prefix
