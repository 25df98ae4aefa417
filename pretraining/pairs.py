"""What the embedded CLIP is shown: batches of preprocessed images with captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.datasets.fashion_mnist import FashionMNIST, read_pair
from fl2ora.federated_data.datasets.pretraining_split import FASHION_MNIST_PRETRAINING
from fl2ora.federated_data.datasets.shapes import SEEN_STYLES
from fl2ora.federated_data.datasets.shapes_drawing import draw_shapes
from fl2ora.federated_data.datasets.shapes_outlines import SHAPE_NAMES

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


@dataclass(frozen=True)
class Pairs:
    """A batch of images and their captions.

    Attributes:
        pixels: ``(N, 3, 32, 32)`` float32, normalised.
        captions: the U different captions of the batch.
        caption_of: ``(N,)`` int64, each image's index into ``captions``.
    """

    pixels: Tensor
    captions: list[str]
    caption_of: Tensor


def all_captions() -> list[str]:
    """Return every caption that pre-training can show, each once."""
    shapes = {
        template.format(name=name, style=style)
        for template in _SHAPE_TEMPLATES
        for name in SHAPE_NAMES
        for style in SEEN_STYLES
    }
    clothes = {
        template.format(name=name)
        for template in _CLOTHING_TEMPLATES
        for name in FashionMNIST.class_names
    }
    return sorted(shapes | clothes)


class PairStream:
    """An endless stream of batches: fresh drawings of the seen styles, and some clothes.

    Args:
        fashion_mnist: folder of Fashion-MNIST's IDX files; only the pre-training part is used.
        preprocessing: the model's.
        batch_size: images in a batch.
        clothes_share: share of a batch that comes from Fashion-MNIST.
        seed: decides every batch.
    """

    def __init__(
        self,
        fashion_mnist: str | Path,
        preprocessing: Preprocessing,
        batch_size: int = 256,
        clothes_share: float = 0.125,
        seed: int = 0,
    ) -> None:
        images, labels = read_pair(fashion_mnist, "train")
        part = slice(FASHION_MNIST_PRETRAINING.start, FASHION_MNIST_PRETRAINING.stop)
        self._clothes, self._clothes_labels = images[part], labels[part]
        self._preprocessing = preprocessing
        self._num_clothes = round(batch_size * clothes_share)
        self._num_shapes = batch_size - self._num_clothes
        self._choices = _stream(seed, "choices")
        self._streams = {style: _stream(seed, style) for style in SEEN_STYLES}

    def __iter__(self) -> Iterator[Pairs]:
        """Yield batches without end."""
        while True:
            yield self._batch()

    def _batch(self) -> Pairs:
        """Draw one batch."""
        drawings, texts = self._draw_shapes()
        clothes, more_texts = self._pick_clothes()
        texts += more_texts
        captions = sorted(set(texts))
        number = {caption: index for index, caption in enumerate(captions)}
        prepare = self._preprocessing.evaluation
        pixels = torch.cat([prepare(drawings), prepare(clothes)])
        return Pairs(pixels, captions, torch.tensor([number[text] for text in texts]))

    def _draw_shapes(self) -> tuple[Tensor, list[str]]:
        """Draw shapes in all seen styles, as evenly as the batch allows."""
        parts: list[Tensor] = []
        texts: list[str] = []
        count = len(SEEN_STYLES)
        for index, style in enumerate(SEEN_STYLES):
            number = (self._num_shapes + index) // count
            labels = torch.randint(len(SHAPE_NAMES), (number,), generator=self._choices)
            parts.append(draw_shapes(style, labels, self._streams[style]))
            names = [SHAPE_NAMES[label] for label in labels.tolist()]
            texts += _write_captions(_SHAPE_TEMPLATES, names, self._choices, style)
        return torch.cat(parts), texts

    def _pick_clothes(self) -> tuple[Tensor, list[str]]:
        """Pick clothes, mirrored and moved by up to two pixels at random."""
        size = (self._num_clothes,)
        rows = torch.randint(len(self._clothes), size, generator=self._choices)
        images = self._clothes[rows]
        mirrored = torch.rand(size, generator=self._choices) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        move = torch.randint(-2, 3, (2,), generator=self._choices).tolist()
        names = [FashionMNIST.class_names[label] for label in self._clothes_labels[rows].tolist()]
        texts = _write_captions(_CLOTHING_TEMPLATES, names, self._choices)
        return images.roll(move, dims=(-2, -1)), texts


def _stream(seed: int, purpose: str) -> Generator:
    """Return a generator of its own; no dataset's split shares it."""
    return torch.Generator().manual_seed(derive_seed(seed, "pre-training", purpose))


def _write_captions(
    templates: tuple[str, ...], names: list[str], generator: Generator, style: str = ""
) -> list[str]:
    """Return one caption per name, each from a template drawn at random."""
    choices = torch.randint(len(templates), (len(names),), generator=generator).tolist()
    return [
        templates[choice].format(name=name, style=style)
        for choice, name in zip(choices, names, strict=True)
    ]
