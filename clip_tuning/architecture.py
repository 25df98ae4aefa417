"""Sizes of a small CLIP."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE_SIDE = 32
"""Height and width of an image in pixels."""

CONTEXT_LENGTH = 32
"""Most tokens in a text, the first and the last included."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of a small CLIP; the defaults are the embedded CLIP's.

    Attributes:
        image_side: height and width of an image in pixels.
        patch: of a patch.
        image_width: of the image tower's states; the MLP is four times as wide.
        image_blocks: blocks of the image tower.
        image_heads: attention heads of the image tower.
        text_width: of the text tower's states.
        text_blocks: blocks of the text tower.
        text_heads: attention heads of the text tower.
        joint: dimensions of the joint space.
        context: most tokens in a text, the first and the last included.
    """

    image_side: int = IMAGE_SIDE
    patch: int = 8
    image_width: int = 128
    image_blocks: int = 4
    image_heads: int = 4
    text_width: int = 96
    text_blocks: int = 3
    text_heads: int = 4
    joint: int = 64
    context: int = CONTEXT_LENGTH


EMBEDDED = Architecture()
