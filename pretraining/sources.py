"""Where images with captions come from: drawings, clothes, and folders of captioned pictures."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor

from fl2ora.experiment.errors import UserError, shown
from fl2ora.experiment.paths import user_path
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.datasets.fashion_mnist import FashionMNIST, read_pair
from fl2ora.federated_data.datasets.pretraining_split import FASHION_MNIST_PRETRAINING
from fl2ora.federated_data.datasets.shapes import SEEN_STYLES
from fl2ora.federated_data.datasets.shapes_drawing import draw_shapes
from fl2ora.federated_data.datasets.shapes_outlines import SHAPE_NAMES
from fl2ora.pretraining.pictures import read_picture
from fl2ora.pretraining.views import on_backgrounds, varied
from fl2ora.reporting.whole_files import plain_file

METADATA = "metadata.csv"
_COLUMNS = ("file_name", "text")

# A repeated template is drawn more often.
_SHAPE_TEMPLATES = (
    *("a picture of a {name}.",) * 14,
    *("a {name}.",) * 2,
    "a drawing of a {name}.",
    "a photo of a {name}.",
    "a {style} {name}.",
    "a {name}, {style}.",
)
_CLOTHING_TEMPLATES = (
    *("a photo of a {name}.",) * 14,
    *("a {name}.",) * 2,
    *("a grey photo of a {name}.",) * 2,
    *("a picture of a {name}.",) * 2,
)


class Streams:
    """Generators of random numbers, one for each purpose, of one seed.

    Args:
        seed: decides them all; no dataset's split shares one.
        step: a batch whose numbers are its own; None: numbers go on from batch to batch.
    """

    def __init__(self, seed: int, step: int | None = None) -> None:
        self._path = ("pre-training",) if step is None else ("pre-training", step)
        self._seed = seed
        self._made: dict[str, Generator] = {}

    def __call__(self, purpose: str) -> Generator:
        """Return the generator of a purpose."""
        if purpose not in self._made:
            seed = derive_seed(self._seed, *self._path, purpose)
            self._made[purpose] = torch.Generator().manual_seed(seed)
        return self._made[purpose]


class Source(ABC):
    """Images with captions, drawn at random."""

    @abstractmethod
    def draw(self, count: int, streams: Streams) -> tuple[Tensor, list[str]]:
        """Return images ``(n, C, H, W)`` uint8 and their captions."""

    @abstractmethod
    def captions(self) -> set[str]:
        """Return every caption that can be drawn."""

    def pictures(self) -> Tensor | None:
        """Return the pictures that images are drawn from, uint8; None where there are none."""
        return None


class Drawings(Source):
    """The drawn world in the styles that are not held back, never the same picture twice."""

    def draw(self, count: int, streams: Streams) -> tuple[Tensor, list[str]]:
        """Draw all seen styles, as evenly as the count allows."""
        parts = []
        choices = streams("choices")
        for index, style in enumerate(SEEN_STYLES):
            number = (count + index) // len(SEEN_STYLES)
            labels = torch.randint(len(SHAPE_NAMES), (number,), generator=choices)
            images = draw_shapes(style, labels, streams(style))
            names = [SHAPE_NAMES[label] for label in labels.tolist()]
            parts.append((images, _write(_SHAPE_TEMPLATES, names, choices, style)))
        return torch.cat([p[0] for p in parts]), [text for p in parts for text in p[1]]

    def captions(self) -> set[str]:
        """Return the captions of all shapes and seen styles."""
        return {
            template.format(name=name, style=style)
            for template in _SHAPE_TEMPLATES
            for name in SHAPE_NAMES
            for style in SEEN_STYLES
        }


class Clothes(Source):
    """Fashion-MNIST's pictures for pre-training, mirrored and moved by up to two pixels.

    Args:
        folder: of its IDX files; only the pre-training part is used.
    """

    def __init__(self, folder: str | Path) -> None:
        images, labels = read_pair(folder, "train")
        part = slice(FASHION_MNIST_PRETRAINING.start, FASHION_MNIST_PRETRAINING.stop)
        self._images, self._labels = images[part], labels[part]

    def draw(self, count: int, streams: Streams) -> tuple[Tensor, list[str]]:
        """Pick clothes at random."""
        choices = streams("choices")
        rows = torch.randint(len(self._images), (count,), generator=choices)
        images = self._images[rows]
        mirrored = torch.rand((count,), generator=choices) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        move = torch.randint(-2, 3, (2,), generator=choices).tolist()
        names = [FashionMNIST.class_names[label] for label in self._labels[rows].tolist()]
        texts = _write(_CLOTHING_TEMPLATES, names, choices)
        return images.roll(move, dims=(-2, -1)), texts

    def pictures(self) -> Tensor:
        """Return the pre-training part."""
        return self._images

    def captions(self) -> set[str]:
        """Return the captions of all kinds of clothing."""
        return {
            template.format(name=name)
            for template in _CLOTHING_TEMPLATES
            for name in FashionMNIST.class_names
        }


class CaptionedFolder(Source):
    """Pictures in a folder with ``metadata.csv``, as the hub's "imagefolder" has them.

    The file has the columns ``file_name`` and ``text``. A picture with several lines has several
    captions, each as likely; what is transparent is laid on a colour at random, and every picture
    is turned, scaled, moved and recoloured a little.

    Args:
        folder: of the pictures.
        templates: with ``{}`` for what a line says; each as likely.
        side: of the pictures in memory, in pixels.

    Raises:
        UserError: naming the file or line, what was expected and what was found.
    """

    def __init__(self, folder: Path, templates: Sequence[str], side: int) -> None:
        self._templates = tuple(templates)
        self._texts = _read_metadata(folder)
        # Filled one by one: a list of all of them would take the same memory again.
        self._images = torch.empty((len(self._texts), 4, side, side), dtype=torch.uint8)
        for image, name in zip(self._images, self._texts, strict=True):
            image.copy_(read_picture(folder / name, side))
        self._captions = list(self._texts.values())

    def draw(self, count: int, streams: Streams) -> tuple[Tensor, list[str]]:
        """Pick pictures at random, each in a view of its own."""
        choices = streams("captions")
        rows = torch.randint(len(self._images), (count,), generator=choices)
        names = []
        for row in rows.tolist():
            texts = self._captions[row]
            names.append(texts[int(torch.randint(len(texts), (), generator=choices))])
        images = varied(on_backgrounds(self._images[rows], streams("views")), streams("views"))
        templates = torch.randint(len(self._templates), (count,), generator=choices).tolist()
        pairs = zip(templates, names, strict=True)
        return images, [self._templates[number].replace("{}", name) for number, name in pairs]

    def pictures(self) -> Tensor:
        """Return the folder's pictures."""
        return self._images

    def captions(self) -> set[str]:
        """Return every line under every template."""
        lines = {text for texts in self._captions for text in texts}
        return {template.replace("{}", line) for template in self._templates for line in lines}


def _read_metadata(folder: Path) -> dict[str, list[str]]:
    """Return the captions of each file, in the order of the lines."""
    path = folder / METADATA
    texts: dict[str, list[str]] = {}
    try:
        with plain_file(path).open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            head = next(lines, [])
            for column in _COLUMNS:
                if (found := head.count(column)) != 1:
                    raise UserError(
                        f"{path}: expected the columns {', '.join(_COLUMNS)}, found "
                        f"{f'{found} times' if found else 'no'} {column} in {shown(','.join(head))}"
                    )
            for cells in filter(None, lines):
                where = f"{path}, line {lines.line_num}"
                if len(cells) != len(head):
                    raise UserError(
                        f"{where}: expected {len(head)} cells, found {len(cells)}; a text with a "
                        "comma stands in quotes"
                    )
                line = dict(zip(head, cells, strict=True))
                name, text = line["file_name"], line["text"].strip()
                if not name or not text:
                    raise UserError(f"{where}: expected a file and a text")
                if name not in texts:
                    _check_name(folder, name, where)
                texts.setdefault(name, []).append(text)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: expected pictures' names and captions, found: {said}") from None
    if not texts:
        raise UserError(f"{path}: expected a line for each picture, found none")
    return texts


def _check_name(folder: Path, name: str, where: str) -> None:
    """Refuse what no file can be called, and files elsewhere."""
    try:
        inside = (folder / user_path(name)).resolve().is_relative_to(folder.resolve())
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if not inside:
        raise UserError(f"{where}: expected a file in the folder, found {shown(name)}")


def _write(
    templates: tuple[str, ...], names: list[str], generator: Generator, style: str = ""
) -> list[str]:
    """Return one caption per name, each from a template drawn at random."""
    choices = torch.randint(len(templates), (len(names),), generator=generator).tolist()
    return [
        templates[choice].format(name=name, style=style)
        for choice, name in zip(choices, names, strict=True)
    ]
