"""One training step against a careful PyTorch loop, the way released code works, and the hardware.

    python -m benchmarks.round
    python -m benchmarks.round --classes 1000 --batch 8 --tuning coop

ViT-B/16 shapes in float32 with random weights, one thread; names have as many tokens as CLIP's own
tokenizer makes of ImageNet's names (two or three on average, nine at most). Each way takes the same
step, its second one, in a process of its own, in turn; the table has medians:

- ``ours``: ``local_train`` on one batch, everything included;
- ``careful``: transformers and peft as a careful person would write it: prompts tokenised once and
  padded to the longest, features of classes and images, cross-entropy, SGD;
- ``released``: as ``careful``, but in every step all prompts are tokenised anew, 77 tokens long;
- ``limit``: the matrix products that the step needs, each timed by itself, five times in a row;
  see ``needed_products``.

Seconds are of the processor, so that other work on the machine counts for little, and once of the
clock; GiB are the most memory that the process ever had, libraries and weights included. A shared
machine still has faster and slower minutes: a step meets those of its own time, and so do the
products, of which the mean is taken therefore and not the least.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from math import nan
from multiprocessing import get_context
from typing import Annotated, NamedTuple

import torch
import typer
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from benchmarks.needed_products import Product, Tower, needed, seconds
from benchmarks.process_memory import peak
from benchmarks.tuning_cost import PLAN, TEMPLATES, random_images
from fl2ora.client_app.precision import forward_in
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.clip_tuning.processor import use_processor
from fl2ora.clip_tuning.prompts import fill_templates, tokenise
from fl2ora.clip_tuning.quick_gelu import keep_less
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.images import LabelledImages

LENGTHS = {1: 0.28, 2: 0.34, 3: 0.2, 4: 0.1, 5: 0.05, 6: 0.02, 9: 0.01}  # of names, in tokens
START, END = "<|startoftext|>", "<|endoftext|>"
SPECS = {"lora": "lora(dropout=0.0)", "dropout": "lora", "coop": "coop"}
TARGETS = ["q_proj", "k_proj", "v_proj"]


def main(
    classes: Annotated[list[int] | None, typer.Option(help="Numbers of classes.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Images of a step.")] = None,
    tuning: Annotated[list[str] | None, typer.Option(help="lora, dropout or coop.")] = None,
    repeats: Annotated[int, typer.Option(help="Steps of which the median is taken.")] = 3,
    released: Annotated[
        bool, typer.Option(help="Take that way too: 1,000 classes want 40 GB of memory.")
    ] = True,
    blocks: Annotated[int, typer.Option(help="Of either tower; fewer want less memory.")] = 12,
) -> None:
    """Print the table."""
    use_processor(1)
    print(f"Matrix products: {matrix_rate() / 1e9:.1f} GFLOP/s.\n")
    print("| tuning | classes | batch | ours s | wall s | GiB | careful s | GiB | ", end="")
    print("ours / careful | released / ours | limit s | limit / ours |\n|---|" + "---:|" * 11)
    for kind in tuning or ("lora", "dropout", "coop"):
        for size in batch or (32, 8):
            for count in classes or (10, 100, 1000):
                print(row(kind, count, size, repeats, released, blocks), flush=True)


def row(kind: str, count: int, size: int, repeats: int, released: bool, blocks: int) -> str:
    """Return one line of the table."""
    ways = ["limit", "ours", "careful", *(["released"] if released and kind != "coop" else [])]
    steps: dict[str, list[Step]] = {way: [] for way in ways}
    for way in ways * repeats:
        steps[way].append(step_of(way, kind, count, size, blocks))
    limit, mine, careful, *rest = map(median, steps.values())
    slow = f"{rest[0].seconds / mine.seconds:.2f}" if rest else "-"
    return (
        f"| {kind} | {count} | {size} | {mine.seconds:.2f} | {mine.wall:.2f} | {mine.peak:.1f} | "
        f"{careful.seconds:.2f} | {careful.peak:.1f} | {mine.seconds / careful.seconds:.2f} | "
        f"{slow} | {limit.seconds:.2f} | {limit.seconds / mine.seconds:.2f} |"
    )


class Step(NamedTuple):
    """What a step took: the processor's seconds, those of the clock, and at most so many GiB."""

    seconds: float
    wall: float
    peak: float


def median(steps: list[Step]) -> Step:
    """Return the median of each part."""
    return Step(*map(statistics.median, zip(*steps, strict=True)))


def step_of(*given: str | int) -> Step:
    """Return what one step takes in a process of its own; see ``_measure``."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, given)


def _measure(way: str, kind: str, count: int, size: int, blocks: int) -> Step:
    """Take a step to warm up and a step; for the limit, the products of one alone."""
    torch.set_num_threads(1)
    names, data = class_names(count), random_images(size)
    clip = vit_b_16(names, blocks)
    data = LabelledImages(data.images, torch.arange(size) % count, data.domains)
    if way == "limit":
        return Step(needed_seconds(clip, kind, names, size), nan, nan)
    if way == "ours":
        use_processor(1)  # as every command of fl2ora that computes
        step = ours(clip, kind, names, data)
    else:
        step = bare(clip, kind, names, data, way == "released")
    step()
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


def needed_seconds(clip: Clip, kind: str, names: list[str], size: int) -> float:
    """Return the seconds of the products that a step needs."""
    found = products_of_step(clip, kind, names, size)
    return sum(count * seconds(product) for product, count in found.items())


def products_of_step(clip: Clip, kind: str, names: list[str], size: int) -> Counter[Product]:
    """Return the products that a step needs, and how often."""
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
    products = needed(images) + needed(texts)
    products[Product((size * 196, 768), (768, 768), "right")] += 1  # the patches
    return products


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


def class_names(count: int) -> list[str]:
    """Return names of ``LENGTHS`` words, which are a token each."""
    rng = torch.Generator().manual_seed(0)
    weights = torch.tensor(list(LENGTHS.values()))
    picks = torch.multinomial(weights, count, replacement=True, generator=rng).tolist()
    words = [list(LENGTHS)[pick] for pick in picks]
    words[-1] = 9 if count > 10 else 5  # the longest name is always there
    draws = torch.randint(5, 8000, (count, 9), generator=rng).tolist()
    return [" ".join(f"w{d}" for d in row[:n]) for row, n in zip(draws, words, strict=True)]


def vit_b_16(names: list[str], blocks: int = 12) -> Clip:
    """Return a CLIP of ViT-B/16's shapes with random weights; every word is a token."""
    known = ["a", "photo", "of", ".", START, END, *sorted({w for n in names for w in n.split()})]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="."))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    core.add_special_tokens([START, END])
    core.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(t, core.token_to_id(t)) for t in (START, END)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=START, eos_token=END, pad_token=END
    )
    shapes = CLIPConfig(
        text_config={
            "hidden_size": 512,
            "num_hidden_layers": blocks,
            "eos_token_id": core.token_to_id(END),
        },
        vision_config={"patch_size": 16, "num_hidden_layers": blocks},
        projection_dim=512,
    )
    torch.manual_seed(0)
    model = CLIPModel(shapes).eval().requires_grad_(False)
    return Clip("ViT-B/16", model, tokenizer, Preprocessing(224, 224))


if __name__ == "__main__":
    typer.run(main)
