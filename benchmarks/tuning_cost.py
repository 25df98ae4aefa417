"""One client's round under every tuning method, with and without keeping frozen work.

    python -m benchmarks.tuning_cost
    python -m benchmarks.tuning_cost --images 64 --only prompt --only lora

ViT-B/16 in float32 with random weights, ten classes, one thread, batches of 32. Seconds are of the
processor, so that other work on the machine counts for little; ``kept`` is a round whose features
are known from the round before, ``anew`` the same round with nothing kept, ``times`` their ratio.
``peak`` is the most memory the process had in those rounds beyond what it had before them (on Linux
with glibc, which is told to give back what is free).
"""

from __future__ import annotations

import copy
import ctypes
import gc
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import torch
import typer
from transformers import CLIPConfig, CLIPModel

from benchmarks.process_memory import forget_peak, peak, resident
from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.loss_context import ZeroShotReference
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip, load_clip
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.prefix.features import prefix_features
from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.clip_tuning.quick_gelu import keep_less
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.images import LabelledImages

T = TypeVar("T")
BATCH = 32
PLAN = TrainingPlan(CrossEntropy(), batch_size=BATCH, learning_rate=1e-4, client="a", seed=1)
TEMPLATES = ("a photo of a {}.",)
NAMES = (
    "t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
METHODS = (
    "coop", "coop(length=4)", "kgcoop", "prograd", "tcp", "fedtpg", "fedpgp", "fedotp",
    "cocoop", "linear_probe", "task_res", "clip_adapter", "tip_adapter", "logit_scale",
    "lora(towers='text')", "lora(blocks='top3')", "lora(blocks='up')", "lora",
    "lora(towers='vision')", "layer_norm", "bitfit", "vpt", "vpt(depth=1)", "ivlp", "maple",
    "prompt_src", "full",
)  # fmt: skip


def main(
    images: Annotated[int, typer.Option(help="Training images of the client.")] = BATCH,
    only: Annotated[list[str] | None, typer.Option(help="Methods; all by default.")] = None,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    clip, data = vit_b_16(), random_images(images)
    print("| method | anew s | kept s | times | kept MB | anew peak MB | kept peak MB |")
    print("|---|" + "---:|" * 6, flush=True)
    for spec in only or METHODS:
        print("| `" + spec + "` | " + " | ".join(measure(clip, spec, data)) + " |", flush=True)


def measure(clip: Clip, spec: str, data: LabelledImages) -> list[str]:
    """Return the cells of one method's row."""
    own = Clip(clip.name, copy.deepcopy(clip.model), clip.tokenizer, clip.preprocessing)
    torch.manual_seed(0)
    classifier = load(spec, TuningMethod).attach(own, NAMES, TEMPLATES)
    classifier.eval()
    has_prefix = classifier.image_prefix is not None
    if not (has_prefix or classifier.wants_zero_shot):
        anew, peak = watched(lambda: a_round(classifier, data, None, None))
        return [f"{anew:.2f}", "-", "-", "-", f"{peak:.0f}", "-"]
    table = prefix_features(classifier, data.images, BATCH) if has_prefix else None
    frozen = ClipClassifier(clip, NAMES, TEMPLATES)
    features = prefix_features(frozen, data.images, BATCH) if classifier.wants_zero_shot else None
    reference = None if features is None else ZeroShotReference(frozen, features)
    a_round(classifier, data, table, reference)  # class features and states are made once, too
    kept, least = watched(lambda: a_round(classifier, data, table, reference))
    for name in ("frozen_classes", "_kept_states"):
        vars(classifier).pop(name, None)
    anew, most = watched(lambda: a_round(classifier, data, None, None))
    size = (table if table is not None else features).nbytes / 2**20  # type: ignore[union-attr]
    return [
        f"{anew:.2f}", f"{kept:.2f}", f"{anew / kept:.1f}", f"{size:.2f}", f"{most:.0f}",
        f"{least:.0f}",
    ]  # fmt: skip


def a_round(
    classifier: ClipClassifier,
    data: LabelledImages,
    table: torch.Tensor | None,
    reference: ZeroShotReference | None,
) -> None:
    """Train for one epoch."""
    with classifier.as_client({}):
        local_train(
            classifier,
            data,
            PLAN,
            reference=None if reference is None else lambda: reference,
            image_table=None if table is None else lambda: table,
        )


def watched(work: Callable[[], T]) -> tuple[float, float]:
    """Return the processor's seconds for ``work`` and the most MB it took beyond those before."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    forget_peak()
    before, started = resident(), time.process_time()
    work()
    return time.process_time() - started, (peak() - before) / 2**20


def vit_b_16() -> Clip:
    """Return a CLIP of ViT-B/16's shapes with random weights and the embedded tokenizer."""
    embedded = load_clip("embedded")
    shapes = CLIPConfig(
        text_config={"hidden_size": 512, "eos_token_id": embedded.tokenizer.eos_token_id},
        vision_config={"patch_size": 16},
        projection_dim=512,
    )
    torch.manual_seed(0)
    model = CLIPModel(shapes).eval().requires_grad_(False)
    keep_less(model)  # as ``load_clip`` does
    return Clip("ViT-B/16", model, embedded.tokenizer, Preprocessing(224, 224))


def random_images(count: int) -> LabelledImages:
    """Return noise of 224 x 224 pixels with labels in turn."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 224, 224), generator=rng).to(torch.uint8)
    zeros = torch.zeros(count, dtype=torch.int64)
    return LabelledImages(pixels, torch.arange(count) % len(NAMES), zeros)


if __name__ == "__main__":
    typer.run(main)
