"""Clients trained together against the same clients trained one after the other.

    python -m benchmarks.clients_per_batch
    python -m benchmarks.clients_per_batch --model vit-b-16 --device cuda

Each row trains the same clients both ways, in turn, and has medians: clients per second one by one,
and by how much that grows with ``clients-per-batch`` as large as in the row. Seconds are the
processor's on a CPU, so that other work on the machine counts for little, and the clock's on a GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import torch
import typer

from benchmarks.tuning_cost import NAMES, PLAN, TEMPLATES, random_images, vit_b_16
from fl2ora.client_app.joint_training import train_jointly
from fl2ora.client_app.local_round import LocalRound
from fl2ora.client_app.training import local_train
from fl2ora.clip_tuning.build import resolve_device
from fl2ora.clip_tuning.clip import load_clip
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.own_copy import own_copy
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.datasets.shapes import Shapes

METHODS = ("lora", "coop", "layer_norm")


def main(
    model: Annotated[str, typer.Option(help="embedded, or vit-b-16 with random weights.")] = (
        "embedded"
    ),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    clients: Annotated[str, typer.Option(help="How many at once, comma-separated.")] = "2,4,10",
    batch: Annotated[str, typer.Option(help="Images of a batch, comma-separated.")] = "4,8,32",
    steps: Annotated[int, typer.Option(help="Steps of every client.")] = 4,
    repeats: Annotated[int, typer.Option(help="Measurements of each.")] = 3,
) -> None:
    """Print one table."""
    if device == "cpu":
        torch.set_num_threads(1)
    print("| method | batch | clients at once | one by one, clients/s | together / one by one |")
    print("|---|---:|---:|---:|---:|", flush=True)
    for method in METHODS:
        for size in map(int, batch.split(",")):
            for count in map(int, clients.split(",")):
                one, many = measured(model, device, method, size, count, steps, repeats)
                print(f"| {method} | {size} | {count} | {count / one:.3g} | {one / many:.2f} |",
                      flush=True)  # fmt: skip


def measured(
    model: str, device: str, method: str, batch: int, clients: int, steps: int, repeats: int
) -> tuple[float, float]:
    """Return the median seconds of all clients one by one, and together."""
    clip = load_clip("embedded") if model == "embedded" else vit_b_16()
    data = Shapes(train=batch * steps).split("train") if model == "embedded" else (
        random_images(batch * steps)
    )  # fmt: skip
    names = Shapes().class_names if model == "embedded" else NAMES
    classifier = load(method, TuningMethod).attach(clip, names, TEMPLATES)
    classifier.eval().to(resolve_device(device))
    start = classifier.export()
    plans = [
        replace(PLAN, batch_size=batch, seed=seed, client=str(seed)) for seed in range(clients)
    ]

    def one_by_one() -> None:
        for plan in plans:
            classifier.restore(start)
            local_train(classifier, data, plan)
        classifier.restore(start)

    def together() -> None:
        rounds = []
        for plan in plans:
            own = own_copy(classifier)
            own.restore(start)
            rounds.append(LocalRound(own, data, plan))
        for result in train_jointly(classifier, rounds):
            if isinstance(result, Exception):
                raise result

    one_by_one()
    together()
    times = [(seconds(one_by_one, device), seconds(together, device)) for _ in range(repeats)]
    one, many = (statistics.median(column) for column in zip(*times, strict=True))
    return one, many


def seconds(work: Callable[[], None], device: str) -> float:
    """Return how long ``work`` takes."""
    clock = time.process_time if device == "cpu" else time.monotonic
    started = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - started


if __name__ == "__main__":
    typer.run(main)
