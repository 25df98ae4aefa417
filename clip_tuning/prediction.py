"""Features and logits of many images: classes encoded once, images in batches, dropout off."""

from __future__ import annotations

import torch
from torch import Tensor

from fl2ora.clip_tuning.at_once import results
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.image_source import Images, batches


@torch.inference_mode()
def predict(
    classifier: ClipClassifier,
    images: Images,
    batch_size: int = 256,
    prefix: Tensor | None = None,
    at_once: int = 1,
) -> Tensor:
    """Return float32 logits ``(N, K)`` on the CPU of raw ``images (N, C, H, W)`` uint8.

    The classifier is put into evaluation mode, whatever mode it was left in; N may be 0.

    Args:
        classifier: what scores.
        images: raw.
        batch_size: images encoded at once.
        prefix: the images' prefix features, where they are known.
        at_once: batches computed at once, in threads; it changes no number.
    """
    classifier.eval()
    device = classifier.clip.device
    classes = classifier.encode_classes()
    given = images if prefix is None else prefix

    @torch.inference_mode()  # of this thread
    def scored(rows: slice) -> Tensor:
        part = given[rows].to(device)
        if prefix is None:
            encoded = classifier.encode_images(classifier.preprocessing.evaluation(part))
        else:
            encoded = classifier.finish_images(part)
        return classifier.logits(encoded, classes).float().cpu()

    none = torch.zeros((0, len(classifier.class_names)))
    return torch.cat([none, *results(scored, batches(given, batch_size), at_once)])


@torch.inference_mode()
def class_features(classifier: ClipClassifier) -> Tensor:
    """Return ``(K, D)`` float32 features of the classes on the CPU, one for each."""
    return classifier.pooled_classes(classifier.encode_classes()).float().cpu().clone()
