"""A procedural image world: sixteen shapes, each in twelve drawing styles (the domains)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fl2ora.experiment.arguments import LARGEST, choice, whole
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.datasets.base import Dataset, SplitName
from fl2ora.federated_data.datasets.shapes_drawing import SIDE, STYLES, draw_shapes
from fl2ora.federated_data.datasets.shapes_outlines import SHAPE_NAMES
from fl2ora.federated_data.images import LabelledImages

SEEN_STYLES: tuple[str, ...] = (
    "filled",
    "outlined",
    "striped",
    "dotted",
    "shaded",
    "noisy",
    "blurred",
    "faded",
)
"""Styles the embedded CLIP was pre-trained on."""

HELD_BACK_STYLES: tuple[str, ...] = ("neon", "chalk", "mosaic", "patterned")
"""Styles the embedded CLIP has never seen."""

_AT_ONCE = 512  # images drawn together, which stay in the processor's cache
_MOST = 200_000  # images of a split: 2.5 GB as float32


class Shapes(Dataset):
    """Shapes drawn on demand, 32x32 RGB; no download, no files.

    Position, size, stretch, rotation, colours, grain and a scratch are random. Every split of every
    style has its own stream of random numbers, so splits share no image. Classes and styles are
    balanced to within one image.

    Args:
        styles: ``held-back`` (the styles the embedded CLIP has never seen), ``seen``, ``all``, or
            names separated by commas, such as ``neon,chalk``.
        train: images in the training split, over all styles together.
        validation: images in the validation split.
        test: images in the test split.
        seed: decides every image.

    Raises:
        UserError: for an argument out of its range or an unknown style.
    """

    class_names = SHAPE_NAMES
    templates = ("a picture of a {}.",)

    def __init__(
        self,
        styles: str = "held-back",
        train: int = 2000,
        validation: int = 500,
        test: int = 2000,
        seed: int = 0,
    ) -> None:
        self.domains = _parse_styles(styles)
        self._sizes: dict[str, int] = {
            "train": whole("train", train, at_least=1, at_most=_MOST),
            "validation": whole("validation", validation, at_least=1, at_most=_MOST),
            "test": whole("test", test, at_least=1, at_most=_MOST),
        }
        self._seed = whole("seed", seed, at_least=0, at_most=LARGEST)
        self._drawn: dict[str, LabelledImages] = {}

    def split(self, name: SplitName) -> LabelledImages:
        """Return one split, drawn once and kept.

        Args:
            name: ``train``, ``validation`` or ``test``.

        Returns:
            Images ``(N, 3, 32, 32)`` uint8 in a fixed random order.

        Raises:
            UserError: if there is no such split.
        """
        choice("split", name, self._sizes)
        if name not in self._drawn:
            self._drawn[name] = self._draw(name)
        return self._drawn[name]

    def _draw(self, name: SplitName) -> LabelledImages:
        """Draw a split style by style, each from its own stream, then shuffle it."""
        numbers = torch.arange(self._sizes[name])
        domains = numbers % len(self.domains)
        labels = (numbers // len(self.domains)) % len(self.class_names)
        images = torch.empty(len(numbers), 3, SIDE, SIDE, dtype=torch.uint8)
        for index, style in enumerate(self.domains):
            rows = (domains == index).nonzero().squeeze(1)
            images[rows] = _draw_in_parts(style, labels[rows], self._stream(name, style))
        order = torch.randperm(len(numbers), generator=self._stream(name, "order of rows"))
        return LabelledImages(images[order], labels[order], domains[order])

    def _stream(self, *path: str) -> Generator:
        """Return a generator of its own for this seed and ``path``."""
        return torch.Generator().manual_seed(derive_seed(self._seed, "shapes", *path))


def _draw_in_parts(style: str, labels: Tensor, generator: Generator) -> Tensor:
    """Draw ``(N, 3, 32, 32)`` uint8 images, ``_AT_ONCE`` at a time."""
    images = torch.empty(len(labels), 3, SIDE, SIDE, dtype=torch.uint8)
    for start in range(0, len(labels), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        images[part] = draw_shapes(style, labels[part], generator)
    return images


def _parse_styles(styles: str) -> tuple[str, ...]:
    """Return the style names that ``styles`` stands for, in the order given."""
    groups = {"held-back": HELD_BACK_STYLES, "seen": SEEN_STYLES, "all": tuple(STYLES)}
    if not isinstance(styles, str):
        raise UserError(
            f"styles: expected {', '.join(groups)} or style names separated by commas, "
            f"found {styles!r}"
        )
    if styles.strip() in groups:
        return groups[styles.strip()]
    names = tuple(part.strip() for part in styles.split(","))
    for name in names:
        choice("styles", name, (*groups, *STYLES) if len(names) == 1 else STYLES)
        if names.count(name) > 1:
            raise UserError(f"styles: expected each style once, found {name!r} more than once")
    return names
