"""A training step on a CUDA device against a careful PyTorch loop, released code, and the hardware.

    python -m benchmarks.accelerator_round
    python -m benchmarks.accelerator_round --output rows.json --only 100

The ways are those of ``benchmarks.round``, which see, at ViT-B/16 shapes; here the device's clock
counts, in milliseconds a step, and what torch has reserved of its memory, in GiB:

- ``ours``: ``local_train`` over several batches, once their pass is recorded (``cuda_graphs``);
- ``unrecorded``: the same without;
- ``limit``: the matrix products that the step needs, each timed by itself.
"""

from __future__ import annotations

import gc
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from benchmarks.accelerator import copied
from benchmarks.needed_products import Product, sides
from benchmarks.random_clip import class_names, vit_b_16
from benchmarks.round import bare, ours, products_of_step
from benchmarks.tuning_cost import PLAN, random_images
from fl2ora.client_app.precision import products_in
from fl2ora.clip_tuning.build import resolve_device
from fl2ora.clip_tuning.clip import Clip
from fl2ora.federated_data.images import LabelledImages

DEVICE = torch.device("cuda")
EAGER = 4  # steps of a measurement of the other ways, which take longer


class Setting(NamedTuple):
    """What a row measures."""

    tuning: str
    classes: int
    batch: int
    precision: str


SETTINGS = [
    Setting("dropout", 100, 32, "float32"),
    Setting("dropout", 100, 32, "tf32"),
    Setting("dropout", 100, 32, "bfloat16"),
    Setting("lora", 100, 32, "bfloat16"),
    Setting("coop", 100, 32, "bfloat16"),
    Setting("dropout", 100, 8, "tf32"),
    Setting("dropout", 100, 8, "bfloat16"),
    Setting("dropout", 10, 32, "bfloat16"),
    Setting("dropout", 1000, 8, "tf32"),
    Setting("lora", 1000, 8, "tf32"),
    Setting("coop", 1000, 8, "tf32"),
]


def main(
    output: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    only: Annotated[int, typer.Option(help="Rows of so many classes alone; 0: all.")] = 0,
    steps: Annotated[int, typer.Option(help="Of a measurement; at least 10 record.")] = 12,
    repeats: Annotated[int, typer.Option(help="Measurements, of which the median is taken.")] = 3,
) -> None:
    """Print the table."""
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here")
    resolve_device("cuda")  # which prepares cuBLAS
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| tuning | classes | batch | precision | ours ms | GiB | unrecorded ms | GiB | ", end="")
    print("careful ms | GiB | released ms | ours / careful | released / ours | limit ms | ", end="")
    print("limit / ours |\n|---|---:|---:|---|" + "---:|" * 11, flush=True)
    rows = []
    for setting in SETTINGS:
        if only in (0, setting.classes):
            rows.append({**setting._asdict(), **measured(setting, steps, repeats)})
            print(line(setting, rows[-1]), flush=True)
    if output is not None:
        found = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measured(setting: Setting, steps: int, repeats: int) -> dict[str, float]:
    """Return milliseconds a step of each way and of the limit, and GiB."""
    names = class_names(setting.classes)
    with DEVICE:
        clip = vit_b_16(names)
    data = random_images(setting.batch * steps)
    data = LabelledImages(data.images, torch.arange(len(data)) % len(names), data.domains)
    found: dict[str, float] = {}
    size, precision = setting.batch, setting.precision
    plan = replace(PLAN, batch_size=size, precision=precision)
    plain = replace(plan, cuda_graphs=False)
    few = data.select(torch.arange(size * EAGER))
    ways: dict[str, Callable[[Clip], Callable[[], object]]] = {
        "ours": lambda clip: ours(clip, setting.tuning, names, data, plan),
        "unrecorded": lambda clip: ours(clip, setting.tuning, names, few, plain),
        "careful": lambda clip: loop(clip, setting, few, released=False),
    }
    if setting.tuning != "coop":
        ways["released"] = lambda clip: loop(clip, setting, few, released=True)
    for way, make in ways.items():
        free()
        own = copied(clip)
        with products_in(precision):
            work = make(own)
            milliseconds(work)  # to warm up, and to record
            taken = steps if way == "ours" else EAGER
            times = [milliseconds(work) / taken for _ in range(repeats)]
        found[way] = statistics.median(times)
        found[f"{way}_gib"] = torch.cuda.memory_reserved() / 2**30
        del work, own
    free()
    with products_in(precision):
        needed = products_of_step(clip, setting.tuning, names, size)
        found["limit"] = sum(n * product_ms(p, precision) for p, n in needed.items())
    return found


def loop(clip: Clip, setting: Setting, data: LabelledImages, released: bool) -> Callable[[], None]:
    """Return some steps of a bare loop, on one batch."""
    batch = data.select(torch.arange(setting.batch))
    names = class_names(setting.classes)
    step = bare(clip, setting.tuning, names, batch, released, setting.precision)

    def work() -> None:
        for _ in range(EAGER):
            step()

    return work


def milliseconds(work: Callable[[], object]) -> float:
    """Return how long ``work`` keeps the device, or the device keeps it."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()  # type: ignore[no-untyped-call]
    work()
    end.record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))  # type: ignore[no-untyped-call]


def product_ms(product: Product, precision: str) -> float:
    """Return the milliseconds of one product, started without delay: the least of three times."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = sides(product, "cuda", dtype)
    found, graph = left @ right, torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(20):
            torch.matmul(left, right, out=found)
    graph.replay()
    return min(milliseconds(graph.replay) for _ in range(3)) / 20


def line(setting: Setting, row: dict[str, Any]) -> str:
    """Return one line of the table."""
    ours, careful, released, limit = (
        row.get(way, 0.0) for way in ("ours", "careful", "released", "limit")
    )
    cells = [
        *setting,
        f"{ours:.1f}",
        f"{row['ours_gib']:.1f}",
        f"{row['unrecorded']:.1f}",
        f"{row['unrecorded_gib']:.1f}",
        f"{careful:.1f}",
        f"{row['careful_gib']:.1f}",
        f"{released:.1f}" if released else "-",
        f"{ours / careful:.2f}",
        f"{released / ours:.1f}" if released else "-",
        f"{limit:.1f}",
        f"{limit / ours:.2f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def free() -> None:
    """Give back what nothing uses."""
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    typer.run(main)
