"""A contact sheet of the procedural image world: ``python -m benchmarks.shapes_sheet OUTPUT``."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

from fl2ora.federated_data.datasets.shapes import HELD_BACK_STYLES, SEEN_STYLES
from fl2ora.federated_data.datasets.shapes_drawing import SIDE, draw_shapes
from fl2ora.federated_data.datasets.shapes_outlines import SHAPE_NAMES

LEFT, BOTTOM, MARGIN, DPI = 130, 80, 6, 80  # pixels, pixels, pixels, pixels per inch


def write_sheet(output: Path, colours: int = 40) -> None:
    """Write a PNG with one row per style and one column per shape, pixel by pixel.

    Args:
        output: the file.
        colours: size of the palette; a small one keeps the file small.
    """
    styles = (*SEEN_STYLES, *HELD_BACK_STYLES)
    labels, generator = torch.arange(len(SHAPE_NAMES)), torch.Generator().manual_seed(1)
    rows = torch.stack([draw_shapes(style, labels, generator) for style in styles])
    height, width = len(styles) * SIDE, len(labels) * SIDE
    sheet = rows.permute(0, 3, 1, 4, 2).reshape(height, width, 3)
    whole = (LEFT + width + MARGIN, BOTTOM + height + MARGIN)
    figure = plt.figure(figsize=(whole[0] / DPI, whole[1] / DPI), dpi=DPI)
    box = (LEFT / whole[0], BOTTOM / whole[1], width / whole[0], height / whole[1])
    axes = figure.add_axes(box)
    axes.imshow(sheet.numpy(), interpolation="nearest")
    axes.set_xticks([SIDE * (i + 0.5) for i in range(len(labels))], SHAPE_NAMES, rotation=60)
    names = [f"{name} (held back)" if name in HELD_BACK_STYLES else name for name in styles]
    axes.set_yticks([SIDE * (i + 0.5) for i in range(len(styles))], names)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB")
    picture.quantize(colours, dither=Image.Dither.NONE).save(output, optimize=True)


if __name__ == "__main__":
    write_sheet(Path(sys.argv[1]))
