"""What a CLIP is shown in pre-training: batches of preprocessed images with captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.pretraining.sources import Source, Streams


@dataclass(frozen=True)
class Pairs:
    """A batch of images and their captions.

    Attributes:
        pixels: ``(N, 3, S, S)`` float32, normalised.
        captions: the U different captions of the batch.
        caption_of: ``(N,)`` int64, each image's index into ``captions``.
    """

    pixels: Tensor
    captions: list[str]
    caption_of: Tensor


def draw_pairs(
    sources: Sequence[tuple[Source, int]], preprocessing: Preprocessing, streams: Streams
) -> Pairs:
    """Draw one batch: so many images of each source.

    Args:
        sources: each with its number of images.
        preprocessing: the model's.
        streams: decide what is drawn.
    """
    parts = [source.draw(count, streams) for source, count in sources]
    texts = [text for _, captions in parts for text in captions]
    captions = sorted(set(texts))
    number = {caption: index for index, caption in enumerate(captions)}
    pixels = torch.cat([preprocessing.evaluation(images) for images, _ in parts])
    return Pairs(pixels, captions, torch.tensor([number[text] for text in texts]))


def distinct(pairs: Pairs, tokenizer: PreTrainedTokenizerFast) -> Pairs:
    """Return the batch with captions as one that are the same tokens: "Cat" and "cat", say.

    Captions cut off at the model's context can become the same as well.
    """
    number: dict[tuple[int, ...], int] = {}
    kept: list[str] = []
    row_of: list[int] = []
    tokens = tokenizer(pairs.captions, truncation=True)["input_ids"]
    for caption, ids in zip(pairs.captions, tokens, strict=True):
        if tuple(ids) not in number:
            number[tuple(ids)] = len(kept)
            kept.append(caption)
        row_of.append(number[tuple(ids)])
    return Pairs(pairs.pixels, kept, torch.tensor(row_of)[pairs.caption_of])


def batches(
    sources: Sequence[tuple[Source, int]], preprocessing: Preprocessing, seed: int, first: int = 0
) -> Iterator[Pairs]:
    """Yield batches without end, each decided by the seed and its number.

    Args:
        sources: each with its number of images in a batch.
        preprocessing: the model's.
        seed: decides every batch.
        first: number of the first batch.
    """
    while True:
        yield draw_pairs(sources, preprocessing, Streams(seed, first))
        first += 1
