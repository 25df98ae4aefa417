"""How files of any size become images of one size."""

from __future__ import annotations

from dataclasses import dataclass, replace

BICUBIC = 3  # PIL's number, which preprocessor files have, too


@dataclass(frozen=True)
class Fit:
    """What a model's preprocessing does with an image's size, before any rescaling of values.

    Attributes:
        size: side in pixels of the square the model takes, cut from the centre.
        resize: length in pixels the shorter side is scaled to before; both sides, where ``squash``.
        squash: scale both sides to ``resize`` whatever the image's shape.
        resample: PIL's number of the filter: 2 bilinear, 3 bicubic.
        larger: side of the larger square that training images are kept in for random crops; 0 if
            there are none.
    """

    size: int = 224
    resize: int = 224
    squash: bool = False
    resample: int = BICUBIC
    larger: int = 0

    def for_evaluation(self) -> Fit:
        """Return the same without the larger square."""
        return replace(self, larger=0)
