"""How the embedded CLIP was made: ``python -m fl2ora.pretraining.embedded --fashion-mnist DIR``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from fl2ora.clip_tuning.architecture import IMAGE_SIDE
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.embedded import load_embedded, save_embedded
from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.clip_tuning.processor import use_processor
from fl2ora.clip_tuning.tiny_clip import new_model, new_preprocessor, new_tokenizer
from fl2ora.federated_data.datasets.fashion_mnist import FashionMNIST
from fl2ora.pretraining.check import markdown_table, zero_shot_table
from fl2ora.pretraining.pairs import Pairs, draw_pairs
from fl2ora.pretraining.sources import Clothes, Drawings, Streams
from fl2ora.pretraining.training import Training

CLOTHES_SHARE = 0.125


def embedded_batches(
    fashion_mnist: Path, preprocessing: Preprocessing, batch_size: int, seed: int
) -> Iterator[Pairs]:
    """Yield the embedded CLIP's batches: fresh drawings of the seen styles, and some clothes.

    Args:
        fashion_mnist: folder of Fashion-MNIST's IDX files; only the pre-training part is used.
        preprocessing: the model's.
        batch_size: images in a batch.
        seed: decides every batch.
    """
    clothes = round(batch_size * CLOTHES_SHARE)
    sources = [(Drawings(), batch_size - clothes), (Clothes(fashion_mnist), clothes)]
    streams = Streams(seed)
    while True:
        yield draw_pairs(sources, preprocessing, streams)


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
    use_processor(threads)
    started = time.perf_counter()
    clothes = FashionMNIST(str(fashion_mnist), validation=1)  # only the test split is used
    preprocessor = new_preprocessor()
    tokenizer = new_tokenizer(sorted(Drawings().captions() | Clothes(fashion_mnist).captions()))
    model = new_model(tokenizer, seed)
    preprocessing = Preprocessing.from_config(preprocessor, IMAGE_SIDE)
    training = Training(model, tokenizer, steps)

    def after_step(step: int) -> None:
        if step % 50 == 0:
            recent = sum(training.losses[-50:]) / 50
            typer.echo(
                f"step {step}/{steps}: loss {recent:.3f}, scale {model.logit_scale.exp():.1f}"
            )

    batches = embedded_batches(fashion_mnist, preprocessing, batch_size, seed)
    training.run(batches, after_step=after_step)
    save_embedded(model, tokenizer, preprocessor, output)
    minutes = (time.perf_counter() - started) / 60
    count = sum(parameter.numel() for parameter in model.parameters())
    typer.echo(f"{count:,} parameters trained in {minutes:.1f} minutes, written to {output}")
    typer.echo(measure(output, clothes, images))


if __name__ == "__main__":
    typer.run(main)
