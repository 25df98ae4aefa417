"""Drawing styles of the procedural image world: batches of shapes become RGB images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Generator, Tensor

from fl2ora.federated_data.datasets.shapes_outlines import sample_distance

SIDE = 32
"""Height and width of an image in pixels."""


@dataclass(frozen=True)
class Canvas:
    """What a style draws from.

    Attributes:
        distance: ``(N, 32, 32)`` signed distance to the outline in pixels, negative inside.
        x: ``(1, 32, 32)`` pixel centres to the right of the image's middle.
        y: ``(1, 32, 32)`` pixel centres below the image's middle.
        ink: ``(N, 3, 1, 1)`` colour of the shape in [0, 1].
        paper: ``(N, 3, 1, 1)`` colour of the background in [0, 1].
        generator: where further random numbers come from.
    """

    distance: Tensor
    x: Tensor
    y: Tensor
    ink: Tensor
    paper: Tensor
    generator: Generator

    def uniform(self, low: float, high: float) -> Tensor:
        """Return one random number per image, ``(N, 1, 1)``, between ``low`` and ``high``."""
        return low + (high - low) * torch.rand(len(self.distance), 1, 1, generator=self.generator)

    def colour(self, low: float, high: float) -> Tensor:
        """Return one random colour per image, ``(N, 3, 1, 1)``, between ``low`` and ``high``."""
        numbers = torch.rand(len(self.distance), 3, 1, 1, generator=self.generator)
        return low + (high - low) * numbers

    def noise(self, channels: int = 3) -> Tensor:
        """Return standard normal numbers, ``(N, channels, 32, 32)``."""
        count = len(self.distance)
        return torch.randn(count, channels, SIDE, SIDE, generator=self.generator)

    def stripes(self, angle: Tensor, period: Tensor) -> Tensor:
        """Return parallel stripes as a mask ``(N, 32, 32)`` in [0, 1].

        Args:
            angle: ``(N, 1, 1)`` radians.
            period: ``(N, 1, 1)`` pixels.
        """
        phase = self.uniform(0, 2 * math.pi)
        along = self.x * angle.cos() + self.y * angle.sin()
        wave = torch.sin(along * (2 * math.pi / period) + phase)
        return wave.mul_(1.5).add_(0.5).clamp_(0, 1)


Style = Callable[[Canvas], Tensor]


def _cover(distance: Tensor, softness: float | Tensor = 1.0) -> Tensor:
    """Return how much of each pixel lies inside, in [0, 1]; ``softness`` is the edge in pixels."""
    return (0.5 - distance / softness).clamp_(0, 1)


def _mix(below: Tensor, above: Tensor, mask: Tensor) -> Tensor:
    """Return ``below`` where ``mask`` ``(N, 32, 32)`` is 0 and ``above`` where it is 1."""
    return torch.lerp(below, above, mask.unsqueeze(1))


def _filled(canvas: Canvas) -> Tensor:
    """One colour on another."""
    return _mix(canvas.paper, canvas.ink, _cover(canvas.distance))


def _outlined(canvas: Canvas) -> Tensor:
    """The outline only."""
    line = canvas.distance.abs() - canvas.uniform(0.6, 1.2)
    return _mix(canvas.paper, canvas.ink, _cover(line))


def _striped(canvas: Canvas) -> Tensor:
    """Filled with stripes of the ink and the paper."""
    stripes = canvas.stripes(canvas.uniform(0, math.pi), canvas.uniform(3, 5))
    return _mix(canvas.paper, canvas.ink, _cover(canvas.distance) * stripes)


def _dotted(canvas: Canvas) -> Tensor:
    """Filled with a grid of dots."""
    period, angle = canvas.uniform(2.4, 3.6), canvas.uniform(0, math.pi)
    one = canvas.stripes(angle, period)
    other = canvas.stripes(angle + math.pi / 2, period)
    return _mix(canvas.paper, canvas.ink, _cover(canvas.distance) * one * other)


def _shaded(canvas: Canvas) -> Tensor:
    """Ink and paper both fade across the image, in different directions."""
    first, second = canvas.uniform(0, 2 * math.pi), canvas.uniform(0, 2 * math.pi)
    light = (canvas.x * first.cos() + canvas.y * first.sin()) / SIDE
    other = (canvas.x * second.cos() + canvas.y * second.sin()) / SIDE
    ink = _mix(canvas.ink, canvas.colour(0.0, 1.0), (light + 0.5).clamp(0, 1) * 0.7)
    paper = _mix(canvas.paper, canvas.colour(0.0, 1.0), (other + 0.5).clamp(0, 1) * 0.5)
    return torch.lerp(paper, ink, _cover(canvas.distance).unsqueeze(1))


def _noisy(canvas: Canvas) -> Tensor:
    """Filled, under strong grain."""
    return _filled(canvas) + 0.25 * canvas.noise()


def _blurred(canvas: Canvas) -> Tensor:
    """Filled, with a wide soft edge."""
    return _mix(canvas.paper, canvas.ink, _cover(canvas.distance, canvas.uniform(4, 8)))


def _faded(canvas: Canvas) -> Tensor:
    """Filled, with little contrast and some grain."""
    ink = torch.lerp(canvas.paper, canvas.ink, canvas.uniform(0.2, 0.5).unsqueeze(1))
    return _mix(canvas.paper, ink, _cover(canvas.distance)) + 0.05 * canvas.noise()


def _neon(canvas: Canvas) -> Tensor:
    """A glowing tube along the outline, in the dark."""
    dark, bright = canvas.colour(0.0, 0.12), canvas.colour(0.2, 1.0)
    glow = torch.exp(-canvas.distance.abs() / canvas.uniform(1.2, 2.4))
    core = _cover(canvas.distance.abs() - 0.4)
    return _mix(_mix(dark, bright, glow), torch.ones_like(bright), core * 0.8)


def _chalk(canvas: Canvas) -> Tensor:
    """A crumbling line and a few crumbling hatches on a dark board."""
    line = _cover(canvas.distance.abs() - canvas.uniform(0.7, 1.1))
    hatch = canvas.stripes(canvas.uniform(0, math.pi), canvas.uniform(4, 6))
    drawn = torch.maximum(line, 0.5 * hatch * _cover(canvas.distance))
    crumbs = (canvas.noise(1).squeeze(1) + 0.7).clamp_(0, 1)
    return _mix(canvas.colour(0.05, 0.3), canvas.colour(0.75, 1.0), drawn * crumbs)


def _mosaic(canvas: Canvas) -> Tensor:
    """Tiles of two by two pixels, each in a colour clearly off."""
    tiles = torch.nn.functional.avg_pool2d(_cover(canvas.distance).unsqueeze(1), 2).squeeze(1)
    image = _mix(canvas.paper, canvas.ink, tiles) + 0.18 * canvas.noise()[..., ::2, ::2]
    return image.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)


def _patterned(canvas: Canvas) -> Tensor:
    """Filled, on paper with stripes of a second colour."""
    stripes = canvas.stripes(canvas.uniform(0, math.pi), canvas.uniform(3, 6))
    second = torch.lerp(canvas.paper, canvas.ink.flip(1), 0.55)
    return _mix(_mix(canvas.paper, second, stripes), canvas.ink, _cover(canvas.distance))


STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "filled": _filled,
        "outlined": _outlined,
        "striped": _striped,
        "dotted": _dotted,
        "shaded": _shaded,
        "noisy": _noisy,
        "blurred": _blurred,
        "faded": _faded,
        "neon": _neon,
        "chalk": _chalk,
        "mosaic": _mosaic,
        "patterned": _patterned,
    }
)
"""How each style draws: ``(N, 3, 32, 32)`` float32, nominally in [0, 1]."""


def _blank_canvas(labels: Tensor, generator: Generator) -> Canvas:
    """Place the shapes at random: position, size, stretch, rotation and two colours."""
    count = len(labels)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    line = torch.arange(SIDE, dtype=torch.float32) - (SIDE - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    radius, angle, stretch = uniform(8.5, 13.5), uniform(-0.4, 0.4), uniform(0.85, 1.18)
    slack = (SIDE / 2 - radius).clamp(min=0)
    right, down = x - slack * uniform(-1, 1), y - slack * uniform(-1, 1)
    across = (right * angle.cos() + down * angle.sin()) / (radius * stretch)
    along = (down * angle.cos() - right * angle.sin()) / (radius / stretch)
    distance = sample_distance(labels, across, along).mul_(radius)
    dark = 0.45 * torch.rand(count, 3, 1, 1, generator=generator)
    bright = 0.55 + 0.45 * torch.rand(count, 3, 1, 1, generator=generator)
    swap = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    ink, paper = torch.where(swap, dark, bright), torch.where(swap, bright, dark)
    return Canvas(distance, x.unsqueeze(0), y.unsqueeze(0), ink, paper, generator)


def _scratch(canvas: Canvas, image: Tensor) -> Tensor:
    """Draw a straight scratch of a random colour across about every third image."""
    angle, offset = canvas.uniform(0, math.pi), canvas.uniform(-12, 12)
    width = canvas.uniform(-2.0, 1.2)  # below zero: no scratch
    line = (canvas.x * angle.cos() + canvas.y * angle.sin() - offset).abs() - width
    visible = _cover(line) * (width > 0)
    return _mix(image, canvas.colour(0.0, 1.0), visible)


def draw_shapes(style: str, labels: Tensor, generator: Generator) -> Tensor:
    """Draw one image per label.

    Args:
        style: a key of ``STYLES``.
        labels: ``(N,)`` int64, indices into ``SHAPE_NAMES``.
        generator: CPU generator; its state alone decides the images.

    Returns:
        ``(N, 3, 32, 32)`` uint8.
    """
    canvas = _blank_canvas(labels, generator)
    image = _scratch(canvas, STYLES[style](canvas))
    grain = canvas.uniform(0.0, 0.06).unsqueeze(1) * canvas.noise()
    return image.add(grain).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
