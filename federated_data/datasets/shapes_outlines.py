"""The sixteen shapes as closed polygons, and the signed distance to them as one lookup table."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Points = NDArray[np.float64]

SHAPE_NAMES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "crescent",
    "arrow",
    "diamond",
    "hexagon",
    "drop",
    "flower",
    "semicircle",
    "lightning bolt",
    "house",
)

EXTENT = 2.2
"""The table covers ``[-EXTENT, EXTENT]`` in both directions; a shape has a radius of about 1."""

RESOLUTION = 128
"""Table entries along each side."""


def _polar(radius: float | Points, count: int) -> Points:
    """Return ``(count, 2)`` points around the origin, the first one at the top (y points down)."""
    angle = 2 * np.pi * np.arange(count) / count
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _arc(centre: float, radius: float, start: float, stop: float) -> Points:
    """Return ``(24, 2)`` points of a circular arc around ``(centre, 0)``; angles in radians."""
    angle = np.linspace(start, stop, 24)
    return np.stack([centre + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _heart() -> Points:
    """Return ``(48, 2)`` points of the classic parametric heart curve, tip down."""
    t = 2 * np.pi * np.arange(48) / 48
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 16.5, -(y + 2.5) / 15.5], axis=1)


def _drop() -> Points:
    """Return ``(48, 2)`` points of a teardrop curve, tip up."""
    t = 2 * np.pi * np.arange(48) / 48
    return np.stack([0.95 * np.sin(t) * np.sin(t / 2) ** 2, -np.cos(t)], axis=1)


def _crescent() -> Points:
    """Return ``(46, 2)`` points between two arcs that meet at the horns."""
    outer = _arc(0.2, 0.95, 0.29 * np.pi, 1.71 * np.pi)
    horn_x, horn_y = outer[0]
    centre = 0.62
    reach = np.arctan2(horn_y, horn_x - centre)
    inner = _arc(centre, float(np.hypot(horn_x - centre, horn_y)), 2 * np.pi - reach, reach)
    return np.concatenate([outer, inner[1:-1]])  # the horns belong to both


def _star() -> Points:
    """Return the ``(10, 2)`` corners of a five-pointed star."""
    return _polar(np.where(np.arange(10) % 2 == 0, 1.05, 0.45), 10)


def _flower() -> Points:
    """Return ``(60, 2)`` points of a flower with five petals."""
    angle = 2 * np.pi * np.arange(60) / 60
    return _polar(0.68 + 0.3 * np.cos(5 * angle), 60)


def _corners(*flat: float) -> Points:
    """Return ``(n, 2)`` corners from ``x0, y0, x1, y1, ...``."""
    return np.array(flat, dtype=np.float64).reshape(-1, 2)


def shape_polygons(name: str) -> list[Points]:
    """Return the closed polygons of a shape; a point is inside by the even-odd rule.

    Args:
        name: one of ``SHAPE_NAMES``.

    Returns:
        Arrays ``(n, 2)`` of x and y with y pointing down, within a radius of about 1.
    """
    a = 0.3
    polygons: dict[str, list[Points]] = {
        "circle": [_polar(0.92, 48)],
        "square": [_corners(-0.8, -0.8, 0.8, -0.8, 0.8, 0.8, -0.8, 0.8)],
        "triangle": [_corners(0, -1, 0.98, 0.75, -0.98, 0.75)],
        "star": [_star()],
        "heart": [_heart()],
        "cross": [
            _corners(
                *(-a, -1, a, -1, a, -a, 1, -a, 1, a, a, a),
                *(a, 1, -a, 1, -a, a, -1, a, -1, -a, -a, -a),
            )
        ],
        "ring": [_polar(0.98, 48), _polar(0.52, 36)],
        "crescent": [_crescent()],
        "arrow": [_corners(-1, -a, 0.1, -a, 0.1, -0.8, 1, 0, 0.1, 0.8, 0.1, a, -1, a)],
        "diamond": [_corners(0, -1.1, 0.62, 0, 0, 1.1, -0.62, 0)],
        "hexagon": [_polar(0.98, 6)],
        "drop": [_drop()],
        "flower": [_flower()],
        "semicircle": [_arc(0, 1.0, np.pi, 2 * np.pi) + np.array([0, 0.45])],
        "lightning bolt": [
            _corners(0.25, -1.1, -0.6, 0.2, -0.05, 0.2, -0.3, 1.1, 0.6, -0.25, 0.05, -0.25)
        ],
        "house": [
            _corners(0, -1.05, 0.95, -0.2, 0.6, -0.2, 0.6, 0.9, -0.6, 0.9, -0.6, -0.2, -0.95, -0.2)
        ],
    }
    return polygons[name]


def _signed_distance(polygons: list[Points], points: Points) -> Points:
    """Return the distance of ``points`` ``(M, 2)`` to the outline, ``(M,)``, negative inside."""
    start = np.concatenate(polygons).T[:, :, None]  # (2, E, 1)
    stop = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons]).T[:, :, None]
    (edge_x, edge_y), (start_x, start_y), (x, y) = stop - start, start, points.T
    from_x, from_y = x - start_x, y - start_y  # (E, M)
    along = (from_x * edge_x + from_y * edge_y) / (edge_x * edge_x + edge_y * edge_y)
    np.clip(along, 0, 1, out=along)
    near_x, near_y = from_x - along * edge_x, from_y - along * edge_y
    distance: Points = np.sqrt((near_x * near_x + near_y * near_y).min(axis=0))
    spans = (start_y > y) != (stop[1] > y)
    rise = np.where(edge_y == 0, 1.0, edge_y)
    left_of = x < start_x + from_y * edge_x / rise
    inside = (spans & left_of).sum(axis=0) % 2 == 1
    return np.where(inside, -distance, distance)


@cache
def distance_table() -> Tensor:
    """Return the signed distances of all shapes, ``(16, RESOLUTION, RESOLUTION)`` float32.

    Entry ``[k, i, j]`` belongs to the point with y number i and x number j of ``RESOLUTION`` even
    steps over ``[-EXTENT, EXTENT]``; the unit is the shape's radius. Treat it as read-only.
    """
    line = np.linspace(-EXTENT, EXTENT, RESOLUTION)
    y, x = np.meshgrid(line, line, indexing="ij")
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    fields = [_signed_distance(shape_polygons(name), points) for name in SHAPE_NAMES]
    table = np.stack(fields).reshape(len(SHAPE_NAMES), RESOLUTION, RESOLUTION)
    return torch.from_numpy(table.astype(np.float32))


def sample_distance(labels: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Look up signed distances, bilinearly; points beyond the table take its border's value.

    Args:
        labels: ``(N,)`` int64, indices into ``SHAPE_NAMES``.
        x: ``(N, H, W)`` float32 in radii, to the right.
        y: ``(N, H, W)`` float32 in radii, downwards.

    Returns:
        ``(N, H, W)`` float32 in radii, negative inside the shape.
    """
    table = distance_table().reshape(-1)
    step = (RESOLUTION - 1) / (2 * EXTENT)
    column = ((x + EXTENT) * step).clamp_(0, RESOLUTION - 1.001)
    row = ((y + EXTENT) * step).clamp_(0, RESOLUTION - 1.001)
    left, top = column.floor(), row.floor()
    base = (top * RESOLUTION + left).long() + (labels * RESOLUTION * RESOLUTION)[:, None, None]
    right_share, low_share = column.sub_(left), row.sub_(top)
    upper = torch.lerp(table[base], table[base + 1], right_share)
    lower = torch.lerp(table[base + RESOLUTION], table[base + RESOLUTION + 1], right_share)
    return torch.lerp(upper, lower, low_share)
