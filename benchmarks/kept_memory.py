"""What it saves to keep the memory that a step has freed, and how much more memory that takes.

    python -m benchmarks.kept_memory measure

The embedded model's default run of five rounds in one process, and LoRA's step of 32 images with
ViT-B/16's shapes; each way in a process of its own, in turn, on one thread. Seconds of the
processor, for the program and for the system, without the start; the most memory at any time.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

cli = typer.Typer(add_completion=False)
GIVEN_BACK = {"MALLOC_ARENA_MAX": "64"}  # any variable of its kind leaves the library as it is
WAYS = {"given back": GIVEN_BACK, "kept": {}}


@cli.command()
def measure(repeats: Annotated[int, typer.Option(help="Pairs; medians are printed.")] = 3) -> None:
    """Print the table."""
    print("| what | memory is | program s | system s | at most MiB |\n|---|---|---:|---:|---:|")
    for what in WORK:
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way, variables in WAYS.items():
                found[way].append(_measured(what, variables))
        for way, rows in found.items():
            program, system, most = map(statistics.median, zip(*rows, strict=True))
            print(f"| {what} | {way} | {program:.1f} | {system:.1f} | {most:.0f} |", flush=True)


def _measured(what: str, variables: dict[str, str]) -> list[float]:
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.kept_memory", "child", what]
    found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    result: list[float] = json.loads(found.stdout.splitlines()[-1])
    return result


@cli.command(hidden=True)
def child(what: str) -> None:
    """Do the work once, then once more, and print what the second took."""
    work = WORK[what]()
    work()
    before = os.times()
    work()
    after = os.times()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([after.user - before.user, after.system - before.system, most]))


def _run() -> Callable[[], object]:
    from rich.console import Console

    from fl2ora.engines.in_process import run_in_process
    from fl2ora.experiment.config import RunConfig

    def work() -> None:
        with tempfile.TemporaryDirectory() as root:
            keys = {"output-dir": root, "run-name": "run", "workers": 1, "num-rounds": 5}
            run_in_process(RunConfig.from_flat(keys), 10, Path(root) / "run", Console(quiet=True))

    return work


def _step() -> Callable[[], object]:
    import torch

    from benchmarks.tuning_cost import BATCH, NAMES, PLAN, TEMPLATES, random_images, vit_b_16
    from fl2ora.client_app.training import local_train
    from fl2ora.clip_tuning.methods.lora import LoRA
    from fl2ora.clip_tuning.processor import use_processor

    use_processor(1)
    torch.manual_seed(0)
    classifier = LoRA(dropout=0.0).attach(vit_b_16(), NAMES, TEMPLATES)
    images = random_images(BATCH)
    return lambda: local_train(classifier, images, PLAN)


WORK = {"the default run, five rounds": _run, "a step of ViT-B/16": _step}

if __name__ == "__main__":
    cli()
