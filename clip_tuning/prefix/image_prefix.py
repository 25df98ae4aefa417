"""The part of the image tower before whatever is tuned: its output never changes in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImagePrefix:
    """``encode_images(pixels)`` is ``finish(compute(pixels))``; see ``ClipClassifier``.

    What ``compute`` returns are an image's prefix features. They depend on nothing that is tuned,
    so they may be computed once and kept.

    Attributes:
        name: says what ``compute`` does, beside the vision tower's weights and configuration: two
            prefixes of equal names on equal towers give equal features.
        compute: from pixels ``(B, 3, H, W)`` to prefix features, whatever of length B.
        finish: from prefix features to what ``encode_images`` returns.
    """

    name: str
    compute: Callable[[Tensor], Tensor]
    finish: Callable[[Tensor], Tensor]


@contextmanager
def lasting(device: torch.device) -> Iterator[None]:
    """For what is computed once and kept: without gradients, and never in half precision."""
    off = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), off:
        yield
