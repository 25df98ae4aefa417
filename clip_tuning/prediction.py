"""Logits of many images: classes encoded once, images in batches, dropout off."""

from __future__ import annotations

import torch
from torch import Tensor

from clip_tuning.classifier import ClipClassifier


@torch.inference_mode()
def predict(classifier: ClipClassifier, images: Tensor, batch_size: int = 256) -> Tensor:
    """Return float32 logits ``(N, K)`` on the CPU of raw ``images (N, C, H, W)`` uint8.

    The classifier is put into evaluation mode, whatever mode it was left in; N may be 0.
    """
    classifier.eval()
    device = classifier.clip.device
    classes = classifier.encode_classes()
    rows = [torch.zeros((0, len(classifier.class_names)))]
    for part in torch.split(images, batch_size) if len(images) else ():
        pixels = classifier.preprocessing.evaluation(part.to(device))
        rows.append(classifier.logits(classifier.encode_images(pixels), classes).float().cpu())
    return torch.cat(rows)
