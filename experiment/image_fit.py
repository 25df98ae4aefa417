"""How files of any size become images of one size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Scaling = Literal["", "none", "bounded", "within"]

BICUBIC = 3  # PIL's number, which preprocessor files have, too


@dataclass(frozen=True)
class Fit:
    """What a model's preprocessing does with an image's size, before any rescaling of values.

    Attributes:
        size: side in pixels of the square the model takes, cut from the centre.
        resize: length in pixels the shorter side is scaled to before; both sides, where ``squash``.
        squash: scale both sides to ``resize`` whatever the image's shape.
        resample: PIL's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box,
            5 Hamming.
        larger: side of the larger square that training images are kept in for random crops; 0 if
            there are none.
        scaling: ``none``: images are not scaled, and those smaller than ``size`` are padded with
            black; ``bounded``: the shorter side to ``bounds[0]``, less where the longer one would
            exceed ``bounds[1]``; ``within``: to the largest that fits ``bounds``, height and width;
            empty: as ``resize`` and ``squash`` say.
        bounds: see ``scaling``.
    """

    size: int = 224
    resize: int = 224
    squash: bool = False
    resample: int = BICUBIC
    larger: int = 0
    scaling: Scaling = ""
    bounds: tuple[int, int] = (0, 0)

    def for_evaluation(self) -> Fit:
        """Return the same without the larger square."""
        return replace(self, larger=0)

    def scaled(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width an image is scaled to, rounded as transformers does.

        >>> Fit(224, 256).scaled(375, 500)
        (256, 341)
        >>> Fit(224, 256, scaling="bounded", bounds=(256, 300)).scaled(375, 500)
        (225, 300)
        """
        if self.scaling == "none":
            return height, width
        if self.scaling == "within":
            scale = min(self.bounds[0] / height, self.bounds[1] / width)
            return max(1, int(height * scale)), max(1, int(width * scale))
        if self.scaling == "bounded":
            return _bounded(height, width, *self.bounds)
        if self.squash:
            return self.resize, self.resize
        shorter = min(height, width)
        return height * self.resize // shorter, width * self.resize // shorter


def _bounded(height: int, width: int, shorter: int, longer: int) -> tuple[int, int]:
    """Return the size with a shorter side of ``shorter``, or a longer one of about ``longer``."""
    low, high = min(height, width), max(height, width)
    exact, side = float(shorter), shorter
    if high / low * shorter > longer:
        exact = longer * float(low) / high
        side = round(exact)
    if low == side:
        return height, width
    if width < height:
        return int(exact * height / width), side
    return side, int(exact * width / height)
