"""The in-process engine: workers, start-up, and what many clients cost.

    python -m benchmarks.engine workers          # one worker against two, in turn
    python -m benchmarks.engine start            # the processor's seconds until something is there
    python -m benchmarks.engine clients          # 100, 1,000 and 10,000 clients

On a machine that is busy with other work, seconds of the clock say little. So ``workers`` adds up
the processor's seconds of every process, and gives those on the longest way through a round: an
equal share of those of the workers, and of the evaluation's threads in the run's own process.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fl2ora.experiment.config import RunConfig

QUIET = Console(quiet=True)
BASE: dict[str, Any] = {"partition": "iid", "callbacks": "none", "resamples": 0}
DATA = "shapes(styles='held-back', train={train}, validation=16, test={test})"
cli = typer.Typer(add_completion=False)


def run(clients: int, root: Path, **settings: Any) -> Path:
    """Make a run in this process and return its folder."""
    from fl2ora.engines.in_process import run_in_process

    keys = {name.replace("_", "-"): value for name, value in settings.items()}
    name = f"run-{len(list(root.iterdir()))}"
    config = RunConfig.from_flat({**BASE, "output-dir": str(root), "run-name": name, **keys})
    run_in_process(config, clients, root / name, QUIET)
    return root / name


def seconds_of(folder: Path, kind: str) -> list[float]:
    """Return when events of a kind were, in seconds since the run's begin."""
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event["seconds"] for event in map(json.loads, lines) if event["event"] == kind]


@cli.command()
def workers(
    repeats: Annotated[int, typer.Option(help="Pairs of runs.")] = 3,
    rounds: Annotated[int, typer.Option(help="That are compared.")] = 4,
) -> None:
    """Compare one worker and two: what each further round costs, so that no start counts."""
    found: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as root:
        _spent(Path(root), 1, 0)  # imports
        for _ in range(repeats):
            for count, taken in found.items():
                short, long = (_spent(Path(root), count, n) for n in (1, 1 + rounds))
                wall, own, others = ((b - a) / rounds for a, b in zip(short, long, strict=True))
                taken.append((wall, own, others))
    ways = {}
    for count, taken in found.items():
        wall, own, others = (statistics.median(column) for column in zip(*taken, strict=True))
        ways[count] = (own + others) / count  # here are evaluation's threads, as many
        print(
            f"{count} at once, a round: {wall:.2f} s of the clock, {own:.2f} s of the processor in "
            f"the run's process, {others:.2f} s in others; longest way {ways[count]:.2f} s"
        )
    print(f"longest way of one by that of two: {ways[1] / ways[2]:.2f}")


def _spent(root: Path, count: int, rounds: int) -> tuple[float, float, float]:
    """Return seconds of the clock, and of the processor here and in other processes."""
    before = time.monotonic(), time.process_time(), _children()
    data = DATA.format(train=1600, test=1024)
    run(8, root, dataset=data, num_rounds=rounds, workers=count, eval_batch_size=64)
    after = time.monotonic(), time.process_time(), _children()
    wall, own, others = (b - a for a, b in zip(before, after, strict=True))
    return wall, own, others


@cli.command()
def start() -> None:
    """Say how many seconds of the processor pass until there is an answer."""
    shown = {
        "fl2ora --help": "import sys; sys.argv = ['fl2ora', '--help']\n"
        "from fl2ora.commands.app import main; main()",
        "import torch": "import torch",
        "import transformers' CLIP": "import torch\nimport transformers.models.clip.modeling_clip",
    }
    for name, code in shown.items():
        before = _children()
        for _ in range(3):
            subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
        print(f"{name}: {(_children() - before) / 3:.2f} s")
    with tempfile.TemporaryDirectory() as root:
        before = time.process_time()
        folder = run(10, Path(root), num_rounds=0)
        print(f"a run of no rounds, zero-shot CLIP measured: {time.process_time() - before:.2f} s")
        print(f"  {seconds_of(folder, 'metrics')[0]:.2f} s of the clock until the first metric")


@cli.command()
def clients(
    most: Annotated[int, typer.Option(help="Largest number of clients.")] = 10_000,
) -> None:
    """Say what 1 % of ever more clients cost; run each in a process of its own."""
    for count in (100, 1_000, 10_000):
        if count <= most:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.engine", "many", str(count)], check=True
            )


@cli.command(hidden=True)
def many(count: int) -> None:
    """Make a run of ``count`` clients and print a row of the table."""
    data = DATA.format(train=20_000, test=64)
    settings: dict[str, Any] = {
        "dataset": data, "num-rounds": 3, "fraction-train": 0.01, "workers": 1,
        "local-test-fraction": 0.0, "calibration-fraction": 0.0,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as root:
        before, wall = time.process_time(), time.monotonic()
        folder = run(count, Path(root), **settings)
        spent, share = (
            time.process_time() - before,
            (time.process_time() - before) / (time.monotonic() - wall),
        )
        starts, ends = (seconds_of(folder, kind) for kind in ("round-start", "round-end"))
        trained = max(1, round(count / 100))
        rounds = statistics.median(e - s for s, e in zip(starts, ends, strict=True)) * share
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(
            f"{count} clients, {trained} a round: {spent:.1f} s of the processor, "
            f"{starts[0] * share:.1f} until the first round, {rounds / trained:.3f} a client "
            f"and round, {peak:.0f} MiB at most",
            flush=True,
        )


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    cli()
