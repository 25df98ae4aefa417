"""Pre-train a small CLIP by a recipe, into a folder that transformers and ``model`` take."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fl2ora.clip_tuning.model_folder import write_model
from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.clip_tuning.tiny_clip import new_model, new_preprocessor, new_tokenizer
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import user_path
from fl2ora.pretraining.pairs import batches
from fl2ora.pretraining.recipe import Recipe
from fl2ora.pretraining.sources import CaptionedFolder, Clothes, Drawings, Source
from fl2ora.pretraining.training import Training
from fl2ora.reporting.whole_files import whole_folder

PROGRESS = "training.safetensors"
RECORD = "pretraining.json"
SAVE_EVERY = 50  # steps


@dataclass(frozen=True)
class Pretrained:
    """What pre-training made.

    Attributes:
        parameters: of the model.
        steps: made in all.
        loss: mean over the last 50 steps, in nats.
        seconds: of this process.
    """

    parameters: int
    steps: int
    loss: float
    seconds: float


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    """Say in plain words that torch finds too little memory."""
    try:
        yield
    except RuntimeError as error:
        if "allocate" not in str(error):
            raise
        raise UserError(
            "there is not enough memory for the recipe: take a smaller batch-size, fewer patches "
            "(image-side by patch), or smaller widths"
        ) from None


@_enough_memory()
def pretrain(
    recipe: Recipe,
    output: Path,
    told: Callable[[int, float], None] = lambda step, loss: None,
) -> Pretrained:
    """Train and write a CLIP; go on where an earlier call of the same recipe was cut off.

    Args:
        recipe: what to train, and on what.
        output: folder of the model; ``training.safetensors`` is in it until all is done.
        told: called after each step with its number and loss.

    Raises:
        UserError: the folder holds something else, the recipe's files are not right, the loss is
            not finite, or there is too little memory.
    """
    started = time.perf_counter()
    output = output.resolve()  # of a link, what it leads to is filled
    _check_output(output)
    sources = _sources(recipe)
    captions = sorted(set().union(*(source.captions() for source, _ in sources)))
    tokenizer = new_tokenizer(captions, recipe.vocabulary, recipe.context)
    preprocessor = new_preprocessor(recipe.image_side)
    preprocessing = Preprocessing.from_config(preprocessor, recipe.image_side)
    model = new_model(tokenizer, recipe.seed, recipe.architecture())
    training = Training(model, tokenizer, recipe.steps, recipe.learning_rate)
    saved, text = output / PROGRESS, recipe.model_dump_json()
    begun = json.dumps({"recipe": text, "data": _digest(captions, sources)})
    if saved.exists():
        training.load(saved, begun)
    output.mkdir(parents=True, exist_ok=True)

    def after_step(step: int) -> None:
        if step % SAVE_EVERY == 0 and step < recipe.steps:
            training.save(saved, begun)
        told(step, training.losses[-1])

    losses = training.run(
        batches(sources, preprocessing, recipe.seed, len(training.losses)), after_step=after_step
    )
    last = losses[-50:]
    done = Pretrained(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=len(losses),
        loss=sum(last) / len(last),
        seconds=time.perf_counter() - started,
    )
    with whole_folder(output) as folder:
        write_model(folder, model, tokenizer, preprocessor)
        record = {"recipe": recipe.flat(), "loss": done.loss, "torch": torch.__version__}
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return done


def _digest(captions: list[str], sources: Sequence[tuple[Source, int]]) -> str:
    """Return a SHA-256 of what is drawn from: other captions would give tokens another meaning."""
    digest = hashlib.sha256("\x1f".join(captions).encode())
    for source, _ in sources:
        if (pictures := source.pictures()) is not None:
            digest.update(pictures.contiguous().numpy().data)
    return digest.hexdigest()


def _check_output(output: Path) -> None:
    """Refuse a folder with anything but the beginning of a pre-training."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: expected a folder, found a file")
    if (output / RECORD).exists():
        raise UserError(f"{output}: expected a new folder, found a model that is done")
    others = [p.name for p in output.glob("*") if p.name not in (PROGRESS, f".{PROGRESS}.part")]
    if others:
        raise UserError(f"{output}: expected a new or empty folder, found {sorted(others)[0]}")
    # At the end the folder is replaced by another; better said now than after hours.
    there = next(folder for folder in output.parents if folder.exists())
    if output.is_mount() or not os.access(there, os.W_OK):
        raise UserError(f"{output}: expected a folder within one that can be written to")


def _sources(recipe: Recipe) -> list[tuple[Source, int]]:
    """Return what a batch is drawn from, and how many images of each."""
    drawings, clothes, captioned = recipe.counts()
    found: list[tuple[Source, int]] = []
    if drawings:
        found.append((Drawings(), drawings))
    if clothes:
        found.append((Clothes(user_path(recipe.fashion_mnist)), clothes))
    if captioned:
        folder = user_path(recipe.captioned)
        found.append((CaptionedFolder(folder, recipe.templates, recipe.image_side), captioned))
    return found
