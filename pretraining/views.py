"""Random views of captioned pictures: backgrounds, places, sizes, angles and colours."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

SCALES = (0.8, 1.4)  # of the window that is seen, against the picture's side
LARGEST_TURN = math.radians(15)
LARGEST_MOVE = 0.15  # of half a side
GREY_SHARE, PLAIN_SHARE = 0.2, 0.5


def on_backgrounds(images: Tensor, generator: Generator) -> Tensor:
    """Lay pictures on one colour each: white for about half of them, any other for the rest.

    Args:
        images: ``(N, 4, H, W)`` uint8, the last channel opacity.
        generator: decides the colours.

    Returns:
        ``(N, 3, H, W)`` float32 in [0, 1].
    """
    count = len(images)
    colours = torch.rand((count, 3, 1, 1), generator=generator)
    plain = torch.rand((count, 1, 1, 1), generator=generator) < PLAIN_SHARE
    colours = torch.where(plain, torch.ones(()), colours)
    values = images.float() / 255
    opacity = values[:, 3:]
    return values[:, :3] * opacity + colours * (1 - opacity)


def varied(images: Tensor, generator: Generator) -> Tensor:
    """Turn, scale, move and recolour pictures, each at random; a fifth keep one tint alone.

    Beyond its border a picture goes on with the colours there.

    Args:
        images: ``(N, 3, H, W)`` float32 in [0, 1].
        generator: decides everything.

    Returns:
        ``(N, 3, H, W)`` uint8.
    """
    count = len(images)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand((count, *shape), generator=generator)

    scale, turn = between(*SCALES), between(-LARGEST_TURN, LARGEST_TURN)
    cosine, sine = scale * turn.cos(), scale * turn.sin()
    move = between(-LARGEST_MOVE, LARGEST_MOVE, 2)
    matrix = torch.stack(
        [torch.stack([cosine, -sine, move[:, 0]], 1), torch.stack([sine, cosine, move[:, 1]], 1)], 1
    )
    grid = affine_grid(matrix, list(images.shape), align_corners=False)
    seen = grid_sample(images, grid, padding_mode="border", align_corners=False)
    grey = seen.mean(1, keepdim=True)
    colour = between(0.3, 1.5, 1, 1, 1)
    colour = torch.where(between(0, 1, 1, 1, 1) < GREY_SHARE, torch.zeros(()), colour)
    seen = grey + (seen - grey) * colour
    seen = (seen - 0.5) * between(0.7, 1.3, 1, 1, 1) + 0.5 + between(-0.15, 0.15, 3, 1, 1)
    return (seen.clamp(0, 1) * 255).round().to(torch.uint8)
