"""How fast the procedural image world is drawn: ``python -m benchmarks.shapes_speed``."""

from __future__ import annotations

import time

import torch

from fl2ora.federated_data.datasets.shapes_drawing import STYLES, draw_shapes
from fl2ora.federated_data.datasets.shapes_outlines import SHAPE_NAMES


def images_per_second(style: str, images: int = 512, repeats: int = 5) -> float:
    """Return the best of ``repeats`` timings of drawing ``images`` in one style."""
    labels = torch.arange(images) % len(SHAPE_NAMES)
    generator = torch.Generator().manual_seed(0)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        draw_shapes(style, labels, generator)
        seconds.append(time.perf_counter() - started)
    return images / min(seconds)


def main() -> None:
    """Print images per second of every style on one thread."""
    torch.set_num_threads(1)
    images_per_second("filled", repeats=1)  # builds the table of distances
    for style in STYLES:
        print(f"{style:10} {images_per_second(style):8,.0f} images/s")


if __name__ == "__main__":
    main()
