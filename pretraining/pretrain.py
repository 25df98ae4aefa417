"""Train the embedded CLIP: ``python -m fl2ora.pretraining.pretrain --fashion-mnist DIR``.

Contrastive pre-training after Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision", ICML 2021, https://arxiv.org/abs/2103.00020, with one difference: equal
captions are one text, so two pictures of a circle are not each other's negatives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerFast

from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.embedded import load_embedded, save_embedded
from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.clip_tuning.tiny_clip import IMAGE_SIDE, new_model, new_preprocessor, new_tokenizer
from fl2ora.federated_data.datasets.fashion_mnist import FashionMNIST
from fl2ora.pretraining.check import markdown_table, zero_shot_table
from fl2ora.pretraining.pairs import Pairs, PairStream, all_captions

MAX_LOG_SCALE = math.log(100.0)
"""Upper bound of ``logit_scale``, as in the paper."""


def contrastive_loss(
    image_features: Tensor, text_features: Tensor, caption_of: Tensor, log_scale: Tensor
) -> Tensor:
    """Return the symmetric contrastive loss with soft targets for equal captions.

    Images against the different captions of the batch: cross-entropy with the image's caption.
    Captions against the images: cross-entropy with a uniform target over all images of the caption.

    Args:
        image_features: ``(N, D)`` of unit length.
        text_features: ``(U, D)`` of unit length, one row per different caption.
        caption_of: ``(N,)`` int64, each image's row in ``text_features``; every row occurs.
        log_scale: scalar, natural logarithm of the inverse temperature.

    Returns:
        A scalar in nats.
    """
    logits = log_scale.exp() * image_features @ text_features.T  # (N, U)
    targets = torch.nn.functional.one_hot(caption_of, len(text_features)).to(logits)
    targets = targets / targets.sum(dim=0)
    to_text = torch.nn.functional.cross_entropy(logits, caption_of)
    to_image = torch.nn.functional.cross_entropy(logits.T, targets.T)
    return (to_text + to_image) / 2


def encode(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, pairs: Pairs
) -> tuple[Tensor, Tensor]:
    """Return unit features of a batch's images ``(N, D)`` and of its captions ``(U, D)``."""
    tokens = tokenizer(pairs.captions, padding=True, return_tensors="pt")
    images = model.get_image_features(pixel_values=pairs.pixels).pooler_output
    texts = model.get_text_features(**tokens).pooler_output
    return torch.nn.functional.normalize(images), torch.nn.functional.normalize(texts)


def train(
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    batches: Iterable[Pairs],
    steps: int,
    learning_rate: float = 1.5e-3,
) -> list[float]:
    """Train in place with AdamW and a one-cycle schedule.

    Args:
        model: all of it is trained.
        tokenizer: the model's.
        batches: at least ``steps`` batches.
        steps: updates to make.
        learning_rate: the schedule's peak.

    Returns:
        The loss of each step in nats, before its update.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=learning_rate,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=learning_rate, total_steps=max(steps, 2), pct_start=0.1
    )
    model.train()
    losses: list[float] = []
    for step, pairs in enumerate(islice(batches, steps), start=1):
        images, texts = encode(model, tokenizer, pairs)
        loss = contrastive_loss(images, texts, pairs.caption_of, model.logit_scale)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOG_SCALE)
        losses.append(loss.item())
        if step % 50 == 0:
            recent = sum(losses[-50:]) / 50
            typer.echo(
                f"step {step}/{steps}: loss {recent:.3f}, scale {model.logit_scale.exp():.1f}"
            )
    model.eval()
    return losses


def measure(folder: Path, clothes: FashionMNIST, images: int) -> str:
    """Return a Markdown table of how the model in ``folder`` does without any tuning."""
    model, tokenizer, preprocessor = load_embedded(folder)
    preprocessing = Preprocessing.from_config(preprocessor, IMAGE_SIDE)
    clip = Clip(str(folder), model, tokenizer, preprocessing)
    return markdown_table(zero_shot_table(clip, clothes, images))


def main(
    fashion_mnist: Annotated[
        Path, typer.Option(help="Folder of Fashion-MNIST's four IDX files.")
    ] = Path("/usr/share/datasets/fashion-mnist"),
    output: Annotated[Path, typer.Option(help="Folder the embedded model is written to.")] = Path(
        "clip_tuning/assets"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Decides weights, drawings and order.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Updates.")] = 2800,
    batch_size: Annotated[int, typer.Option(min=2, help="Images in an update.")] = 256,
    images: Annotated[int, typer.Option(min=1, help="Test drawings of each style.")] = 2000,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
) -> None:
    """Train the embedded CLIP, write it, and print how it does without any tuning."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    clothes = FashionMNIST(str(fashion_mnist), validation=1)  # only the test split is used
    preprocessor = new_preprocessor()
    tokenizer = new_tokenizer(all_captions())
    model = new_model(tokenizer, seed)
    preprocessing = Preprocessing.from_config(preprocessor, IMAGE_SIDE)
    batches = PairStream(fashion_mnist, preprocessing, batch_size=batch_size, seed=seed)
    train(model, tokenizer, batches, steps)
    save_embedded(model, tokenizer, preprocessor, output)
    minutes = (time.perf_counter() - started) / 60
    count = sum(parameter.numel() for parameter in model.parameters())
    typer.echo(f"{count:,} parameters trained in {minutes:.1f} minutes, written to {output}")
    typer.echo(measure(output, clothes, images))


if __name__ == "__main__":
    typer.run(main)
