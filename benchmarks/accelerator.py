"""The pure core on a CUDA device against the same on the processor, at ViT-B/16 shapes.

    python -m benchmarks.accelerator --output results.json

Random weights, ten classes. ``agreement``: one round of the same client on both, float32 without
TF32, and the calibration sums of its images afterwards. ``speed``: a round of training and a pass
of evaluation on the device, in float32 and with bfloat16 autocast, repeatable bit by bit or not,
with what torch has reserved of its memory.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.tuning_cost import NAMES, TEMPLATES, random_images, vit_b_16
from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.calibration.summaries import summarise
from fl2ora.client_app.loss_context import ZeroShotReference
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.build import resolve_device
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.prediction import predict
from fl2ora.clip_tuning.prefix.features import prefix_features
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.images import LabelledImages

AGREEMENT = ("lora(dropout=0.0)", "coop(length=4)", "layer_norm", "prompt_src", "fedotp", "full")
SPEED = ("lora", "coop", "prompt_src", "layer_norm", "full")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
PLAN = TrainingPlan(CrossEntropy(), batch_size=8, learning_rate=1e-3, client="a", seed=1)


def main(
    output: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    images: Annotated[int, typer.Option(help="Training images of the timed client.")] = 512,
    batch: Annotated[int, typer.Option(help="Images of one batch when timed.")] = 32,
    timed: Annotated[bool, typer.Option(help="Measure speed too.")] = True,
) -> None:
    """Print both tables; without a CUDA device there is nothing to do."""
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here")
    resolve_device("cuda")  # which prepares cuBLAS
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    clip = vit_b_16()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "agreement": {spec: agreement(clip, spec) for spec in AGREEMENT},
    }
    print(json.dumps(found, indent=1), flush=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if timed:
        data = random_images(images)
        found["speed"] = {spec: speed(clip, spec, data, batch) for spec in SPEED}
        print(json.dumps(found["speed"], indent=1), flush=True)
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def agreement(clip: Clip, spec: str) -> dict[str, float]:
    """Return how far a round and an evaluation on the device are from those on the processor."""
    data = random_images(24)
    here, cpu_logits = trained(clip, spec, data, "cpu")
    there, logits = trained(clip, spec, data, "cuda")
    again, _ = trained(clip, spec, data, "cuda")
    start = classifier(clip, spec, "cpu").export()
    moved = norm({name: here[name] - start[name] for name in here})
    sums = [CalibrationStats.from_logits(rows, data.labels) for rows in (cpu_logits, logits)]
    mine, theirs = (summarise(stats) for stats in sums)
    return {
        "adapter_gap_over_movement": norm({n: here[n] - there[n] for n in here}) / moved,
        "largest_logit_gap": float((cpu_logits - logits).abs().max()),
        "nll_gap": abs(mine["nll"] - theirs["nll"]),
        "ece_gap": abs(mine["ece"] - theirs["ece"]),
        "two_rounds_equal": float(all(torch.equal(there[n], again[n]) for n in there)),
    }


def trained(clip: Clip, spec: str, data: LabelledImages, device: str) -> tuple[Adapter, Tensor]:
    """Return a client's adapter after one round on a device, and the logits of its images."""
    model = classifier(clip, spec, device)
    frozen = ClipClassifier(copied(clip), NAMES, TEMPLATES).to(device)
    with model.as_client({}):
        update, _ = local_train(model, data, PLAN, reference=lambda: ZeroShotReference(frozen))
    return update.adapter, predict(model, data.images)


def speed(clip: Clip, spec: str, data: LabelledImages, batch: int) -> dict[str, float]:
    """Return images a second of training and evaluation, and peak memory in MiB."""
    model = classifier(clip, spec, "cuda")
    frozen = ClipClassifier(copied(clip), NAMES, TEMPLATES).to("cuda").eval()
    table = None
    if model.image_prefix is not None:
        table = prefix_features(model, data.images)
    features = prefix_features(frozen, data.images) if model.wants_zero_shot else None
    found: dict[str, float] = {}
    for precision, repeats in itertools.product(PRECISIONS, (True, False)):
        plan = replace(PLAN, batch_size=batch, precision=precision, deterministic=repeats)
        name = f"train_{precision}" + ("_repeatable" if repeats else "")

        def work(plan: TrainingPlan = plan, kept: Tensor | None = None) -> None:
            with model.as_client({}):
                local_train(
                    model,
                    data,
                    plan,
                    reference=lambda: ZeroShotReference(frozen, features),
                    image_table=lambda: kept,
                )

        found[name], found[f"{name}_mib"] = rate(work, len(data))
        if table is not None:
            found[f"{name}_kept"], _ = rate(lambda w=work: w(kept=table), len(data))
    found["evaluate_float32"], found["evaluate_mib"] = rate(
        lambda: predict(model, data.images), len(data)
    )
    return {key: round(value, 1) for key, value in found.items()}


def rate(work: Callable[[], object], images: int) -> tuple[float, float]:
    """Return images a second of the better of two runs, and MiB that torch has reserved.

    One goes before, to warm up and to record (``TrainingPlan.cuda_graphs``).
    """
    torch.cuda.empty_cache()
    work()
    torch.cuda.synchronize()
    best = float("inf")
    for _ in range(2):
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return images / best, torch.cuda.memory_reserved() / 2**20


def classifier(clip: Clip, spec: str, device: str) -> ClipClassifier:
    """Return a fresh classifier; equal arguments give equal initial parameters."""
    torch.manual_seed(0)
    return load(spec, TuningMethod).attach(copied(clip), NAMES, TEMPLATES).eval().to(device)


def copied(clip: Clip) -> Clip:
    """Return the CLIP with weights of its own."""
    return Clip(clip.name, copy.deepcopy(clip.model), clip.tokenizer, clip.preprocessing)


def norm(adapter: Adapter) -> float:
    """Return the L2 norm over all tensors."""
    return float(sum(t.double().square().sum() for t in adapter.values()) ** 0.5)


if __name__ == "__main__":
    typer.run(main)
