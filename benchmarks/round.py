"""One training step against a careful PyTorch loop, the way released code works, and the hardware.

    python -m benchmarks.round
    python -m benchmarks.round --classes 1000 --batch 8 --tuning coop

ViT-B/16 shapes in float32 with random weights, one thread; names have as many tokens as CLIP's own
tokenizer makes of ImageNet's names (two or three on average, nine at most). Each way takes the same
step after one to warm up, in a process of its own, in turn; the table has medians of the steps, and
of the ratios in each turn:

- ``ours``: ``local_train`` on one batch, everything included;
- ``careful``: transformers and peft as a careful person would write it: prompts tokenised once and
  padded to the longest, features of classes and images, cross-entropy, SGD;
- ``released``: as ``careful``, but in every step all prompts are tokenised anew, 77 tokens long;
- ``limit``: the matrix products that the step needs, each timed by itself, five times in a row;
  see ``needed_products``. ``text tower`` is the share of their operations that it has.

Seconds are of the processor, so that other work on the machine counts for little, and once of the
clock; GiB are the most memory that the process ever had, libraries and weights included. All ways
are in memory at once: with ``released``, 100 classes and 32 images want more than 24 GB, 1,000
classes more than 40; ``--no-released`` and ``--blocks`` make it less. A shared machine still has
faster and slower minutes: a step meets those of its own time, and so do the products, of which the
mean is taken therefore and not the least.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from math import nan
from multiprocessing import get_context
from typing import Annotated, NamedTuple

import torch
import typer
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPModel

from benchmarks.needed_products import Product, Tower, needed, operations, seconds
from benchmarks.process_memory import peak
from benchmarks.random_clip import class_names, vit_b_16, without_weights
from benchmarks.tuning_cost import PLAN, TEMPLATES, random_images
from fl2ora.client_app.precision import forward_in
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.processor import use_processor
from fl2ora.clip_tuning.prompts import fill_templates, tokenise
from fl2ora.clip_tuning.quick_gelu import keep_less
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.images import LabelledImages

SPECS = {"lora": "lora(dropout=0.0)", "dropout": "lora", "coop": "coop"}
TARGETS = ["q_proj", "k_proj", "v_proj"]
COLUMNS = (
    *("tuning", "classes", "batch", "text tower", "ours s", "wall s", "GiB", "careful s", "GiB"),
    *("ours / careful", "released / ours", "limit s", "limit / ours"),
)


def main(
    classes: Annotated[list[int] | None, typer.Option(help="Numbers of classes.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Images of a step.")] = None,
    tuning: Annotated[list[str] | None, typer.Option(help="lora, dropout or coop.")] = None,
    repeats: Annotated[int, typer.Option(help="Steps of which the median is taken.")] = 3,
    released: Annotated[
        bool, typer.Option(help="Take that way too; without, less memory is needed.")
    ] = True,
    blocks: Annotated[int, typer.Option(help="Of either tower; fewer want less memory.")] = 12,
) -> None:
    """Print the table."""
    use_processor(1)
    print(f"Matrix products: {matrix_rate() / 1e9:.1f} GFLOP/s.\n")
    print(f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}")
    for kind in tuning or ("lora", "dropout", "coop"):
        for size in batch or (32, 8):
            for count in classes or (10, 100, 1000):
                print(row(kind, count, size, repeats, released, blocks), flush=True)


def row(kind: str, count: int, size: int, repeats: int, released: bool, blocks: int) -> str:
    """Return one line of the table."""
    ways = ["limit", "ours", "careful", *(["released"] if released and kind != "coop" else [])]
    spawned = get_context("spawn")
    with ExitStack() as stack:
        processes = [stack.enter_context(ProcessPoolExecutor(1, spawned)) for _ in ways]
        for way, process in zip(ways, processes, strict=True):
            process.submit(_prepare, way, kind, count, size, blocks).result()
        turns = [[each.submit(_take).result() for each in processes] for _ in range(repeats)]
    limit, mine, careful, *rest = zip(*turns, strict=True)
    share = text_share(kind, count, size, blocks)
    own, other, least = map(_median, (mine, careful, limit))
    return (
        f"| {kind} | {count} | {size} | {share:.0%} | "
        f"{own.seconds:.2f} | {own.wall:.2f} | {own.peak:.1f} | "
        f"{other.seconds:.2f} | {other.peak:.1f} | {_ratio(mine, careful):.2f} | "
        f"{f'{_ratio(rest[0], mine):.2f}' if rest else '-'} | "
        f"{least.seconds:.2f} | {_ratio(limit, mine):.2f} |"
    )


def text_share(kind: str, count: int, size: int, blocks: int) -> float:
    """Return which share of the needed operations is the text tower's; the rest is the images'."""
    names = class_names(count)
    clip = without_weights(names, blocks)
    images, texts = map(operations, products_of_towers(clip, kind, names, size))
    return texts / (images + texts)


class Step(NamedTuple):
    """What a step took: the processor's seconds, those of the clock, and at most so many GiB."""

    seconds: float
    wall: float
    peak: float


def _median(steps: Sequence[Step]) -> Step:
    return Step(*map(statistics.median, zip(*steps, strict=True)))


def _ratio(steps: Sequence[Step], others: Sequence[Step]) -> float:
    """Return the median of the ratios in each turn, of the processor's seconds."""
    return statistics.median(a.seconds / b.seconds for a, b in zip(steps, others, strict=True))


def _prepare(way: str, kind: str, count: int, size: int, blocks: int) -> None:
    """Make ready what ``_take`` does in this process, and take a step to warm up."""
    global _take_one
    torch.set_num_threads(1)
    names = class_names(count)
    if way == "limit":
        _take_one = partial(needed_seconds, without_weights(names, blocks), kind, names, size)
        return
    clip, data = vit_b_16(names, blocks), random_images(size)
    data = LabelledImages(data.images, torch.arange(size) % count, data.domains)
    if way == "ours":
        use_processor(1)  # as every command of fl2ora that computes
        step = ours(clip, kind, names, data)
    else:
        step = bare(clip, kind, names, data, way == "released")
    step()
    _take_one = partial(_timed, step)


_take_one: Callable[[], Step]  # of a process that was prepared


def _take() -> Step:
    return _take_one()


def _timed(step: Callable[[], object]) -> Step:
    processor, clock = time.process_time(), time.perf_counter()
    step()
    times = time.process_time() - processor, time.perf_counter() - clock
    return Step(*times, peak() / 2**30)


def ours(
    clip: Clip, kind: str, names: list[str], data: LabelledImages, plan: TrainingPlan = PLAN
) -> Callable[[], object]:
    """Return a round of ``local_train``, by default one step, on the device of the model."""
    keep_less(clip.model)  # as ``load_clip`` does
    device = clip.model.device
    classifier = load(SPECS[kind], TuningMethod).attach(clip, names, TEMPLATES).to(device)
    return lambda: local_train(classifier, data, plan)


def bare(
    clip: Clip,
    kind: str,
    names: list[str],
    data: LabelledImages,
    released: bool,
    precision: str = "float32",
) -> Callable[[], object]:
    """Return one step with transformers and peft alone, on the device of the model."""
    model, device, texts = clip.model, clip.model.device, fill_templates(names, TEMPLATES)
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1)
        for values in ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    )
    dropout = 0.25 if kind == "dropout" else 0.0
    if kind == "coop":
        context = torch.nn.Parameter(0.02 * torch.randn(16, 512, device=device))
        trained = [context]
    else:
        lora = LoraConfig(r=2, lora_alpha=1, use_rslora=True, lora_dropout=dropout)
        lora.target_modules = set(TARGETS)
        model = get_peft_model(model, lora).train()  # type: ignore[assignment]
        trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=1e-4)
    once = tokenise(clip.tokenizer, texts, 77).to(device)

    def logits() -> Tensor:
        pixels = (data.images[:].to(device).float() / 255 - mean) / std
        with torch.set_grad_enabled(kind != "coop"):
            images = model.get_image_features(pixel_values=pixels).pooler_output
        if kind == "coop":
            features = with_context(model, once, context)
        else:
            ids = once
            if released:
                ids = tokenise(clip.tokenizer, texts, 77, "max_length").to(device)
            features = model.get_text_features(input_ids=ids).pooler_output
        scale = model.logit_scale.exp()
        return scale * normalize(images, dim=-1) @ normalize(features, dim=-1).T

    def step() -> None:
        with forward_in(precision, device):
            found = logits()
        optimiser.zero_grad()
        cross_entropy(found.float(), data.labels.to(device)).backward()
        optimiser.step()

    return step


def with_context(model: CLIPModel, ids: Tensor, context: Tensor) -> Tensor:
    """Return class features of "[context] name." as CoOp's loop makes them."""
    tower = model.text_model
    ids = torch.cat([ids[:, :1], ids[:, 5:]], dim=1)  # without "a photo of a"
    words = tower.embeddings.token_embedding(ids)
    shared = context.expand(len(ids), -1, -1)
    hidden = tower.embeddings(inputs_embeds=torch.cat([words[:, :1], shared, words[:, 1:]], dim=1))
    length = hidden.shape[1]
    mask = torch.full((length, length), -torch.inf, device=ids.device).triu(1)[None, None]
    for block in tower.encoder.layers:
        hidden = block(hidden, mask)
    ends = (ids == model.config.text_config.eos_token_id).int().argmax(dim=-1) + len(context)
    pooled = tower.final_layer_norm(hidden[torch.arange(len(ids)), ends])
    return model.text_projection(pooled)  # type: ignore[no-any-return]


def needed_seconds(clip: Clip, kind: str, names: list[str], size: int) -> Step:
    """Return what the products take that a step needs, in seconds of the processor."""
    found = products_of_step(clip, kind, names, size)
    return Step(sum(count * seconds(product) for product, count in found.items()), nan, nan)


def products_of_step(clip: Clip, kind: str, names: list[str], size: int) -> Counter[Product]:
    """Return the products that a step needs, and how often."""
    images, texts = products_of_towers(clip, kind, names, size)
    return images + texts


def products_of_towers(
    clip: Clip, kind: str, names: list[str], size: int
) -> tuple[Counter[Product], Counter[Product]]:
    """Return the products that a step needs of the image tower, and those of the text tower."""
    ids = tokenise(clip.tokenizer, fill_templates(names, TEMPLATES), 77)
    end = clip.model.config.text_config.eos_token_id
    rows = [row[: row.index(end) + 1] for row in ids.tolist()]
    tokens = sum(map(len, rows))
    if kind != "dropout":
        tokens = len({tuple(row[: i + 1]) for row in rows for i in range(len(row))})
    blocks = clip.model.config.vision_config.num_hidden_layers
    images = Tower(768, blocks, size * 197, size, attention=(size, 197))
    texts = Tower(512, blocks, tokens, len(ids))
    if kind == "coop":
        images = images._replace(backward=False, lora=False)
        texts = texts._replace(tokens=tokens + 16 - 4, inputs=True, lora=False)
    of_images = needed(images)
    of_images[Product((size * 196, 768), (768, 768), "right")] += 1  # the patches
    return of_images, needed(texts)


def matrix_rate() -> float:
    """Return the FLOP/s of the products that a block of the vision tower consists of."""
    shapes = [(6304, 768, 768)] * 4 + [(6304, 768, 3072), (6304, 3072, 768)]
    pairs = [(torch.randn(m, k), torch.randn(k, n)) for m, k, n in shapes]
    rates = []
    for _ in range(4):
        started = time.process_time()
        for left, right in pairs:
            left @ right
        rates.append(sum(2 * m * k * n for m, k, n in shapes) / (time.process_time() - started))
    return statistics.median(rates[1:])


if __name__ == "__main__":
    typer.run(main)
