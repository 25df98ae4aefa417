"""Pictures with what photographs have: smooth parts, edges, grain, and odd sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Return an RGB picture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = 127 + 90 * np.sin(x / 17 + rng.uniform(0, 6, (3, 1, 1))) * np.cos(y / 11)
    edges = np.where((x > width / 3) & (y > height / 4), 60, 0)
    grain = rng.integers(-20, 20, (3, height, width))
    values = np.clip(waves - edges + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0)))


def save_photo(path: Path, height: int = 40, width: int = 50, seed: int = 0) -> Path:
    """Write a picture in the format of the path's ending, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    photo(height, width, seed).save(path)
    return path


def save_tree(root: Path, *folders: str, count: int = 4, seed: int = 0) -> Path:
    """Write ``count`` different pictures into each of the folders below ``root``; return it."""
    for number, folder in enumerate(folders):
        for index in range(count):
            save_photo(root / folder / f"{index}.png", 20, 24, seed + 1000 * number + index)
    return root
