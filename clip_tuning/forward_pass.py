"""One batch on its way through a classifier."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ForwardPass:
    """What one batch went through.

    Attributes:
        pixels: ``(B, 3, H, W)``, the input.
        images: ``encode_images(pixels)``: unit features, ``(B, D)`` unless a method has more.
        classes: ``encode_classes()``: unit features, ``(K, D)`` unless a method has more.
        logits: ``(B, K)``, ``logits(images, classes)``.
        zero_shot: ``(B, D)`` unit features of zero-shot CLIP, where they are known.
    """

    pixels: Tensor
    images: Tensor
    classes: Tensor
    logits: Tensor
    zero_shot: Tensor | None = None
