"""Time and memory of one aggregation per strategy, for ViT-B/16 LoRA and many clients.

Every strategy runs in a process of its own. Updates come as a stream, each a fresh copy, as
replies do: a strategy that sums keeps one at a time, one that compares clients keeps them all. Time
is of the processor, so that other work on the machine counts for little. The
``times FedAvg`` columns compare with FedAvg in the same run and setting.

    python benchmarks/strategy_aggregation.py
    python benchmarks/strategy_aggregation.py --clients 10 100 --ranks 2 --strategies fedavg krum

A strategy that would need more than ``--memory`` gigabytes is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks.process_memory import forget_peak, peak, resident
from fl2ora.clip_tuning.adapter import Adapter, num_bytes
from fl2ora.clip_tuning.factors import factors_of, pair_names, residual_names
from fl2ora.experiment.plugins import load
from fl2ora.strategies.base import RoundPlan, RunInfo, Strategy
from fl2ora.strategies.updates import ClientUpdate

STREAMING = [
    "fedavg", "fedprox", "feddyn", "fednova", "scaffold", "fedavgm", "fedadam", "fedyogi",
    "fedadagrad", "fedit", "ffa_lora", "rolora", "fedsa_lora", "fedsvd",
]  # fmt: skip
COLLECTING = [
    "median", "trimmed_mean", "krum", "multi_krum", "geometric_median", "flexlora", "hetlora",
    "lora_fair", "fedex_lora", "flora", "raflora",
]  # fmt: skip
RESIDUAL_RANK = 8  # room beside the factors, for strategies that need it
TOWERS = {"vision": 768, "text": 512}
DISTINCT = 16  # updates drawn; further clients send copies of them under other keys


def adapter(rank: int, generator: torch.Generator) -> Adapter:
    """Return LoRA factors of q, k and v in the 12 blocks of both towers of ViT-B/16."""
    tensors = {}
    for tower, width in TOWERS.items():
        for block in range(12):
            for projection in "qkv":
                head = f"{tower}_model.encoder.layers.{block}.self_attn.{projection}_proj.lora_"
                tensors[f"{head}A.weight"] = torch.randn(rank, width, generator=generator)
                tensors[f"{head}B.weight"] = torch.randn(width, rank, generator=generator)
    return tensors


def draw(spec: str, rank: int) -> tuple[Adapter, list[ClientUpdate]]:
    """Return a start and some updates with the aux tensors that ``spec`` asks for."""
    generator = torch.Generator().manual_seed(0)
    start = adapter(rank, generator)
    if load(spec, Strategy).needs_residual:
        for module in pair_names(start):
            name_a, name_b = residual_names(module)
            factors = factors_of(start, module)
            start[name_a] = torch.zeros(RESIDUAL_RANK, factors.a.shape[1])
            start[name_b] = torch.zeros(factors.b.shape[0], RESIDUAL_RANK)
    updates = []
    for index in range(DISTINCT):
        changed = {
            name: tensor
            + 0.01 * tensor.abs().mean() * torch.randn(tensor.shape, generator=generator)
            for name, tensor in start.items()
        }
        aux: Adapter = {}
        if spec.startswith("scaffold"):
            aux = {name: changed[name] - start[name] for name in start}
        elif spec.startswith("fednova"):
            aux = {"normaliser": torch.tensor([2.0 + index]), "steps": torch.tensor([2.0 + index])}
        updates.append(ClientUpdate("", changed, 10 + index, aux=aux))
    return start, updates


def stream(updates: list[ClientUpdate], clients: int) -> Iterator[ClientUpdate]:
    """Yield one fresh update a client."""
    for index in range(clients):
        update = updates[index % len(updates)]
        yield replace(
            update,
            client=f"{index:04d}",
            adapter={name: tensor.clone() for name, tensor in update.adapter.items()},
            aux={name: tensor.clone() for name, tensor in update.aux.items()},
        )


def _begun(spec: str, start: Adapter, clients: int) -> tuple[Strategy, RoundPlan]:
    """Return a strategy told of a run, and the plan of its first round with all clients."""
    strategy, keys = load(spec, Strategy), tuple(f"{index:04d}" for index in range(clients))
    strategy.begin(RunInfo(keys, start))
    return strategy, strategy.plan(1, start, keys)


def _in_child(spec: str, clients: int, rank: int, repeats: int, threads: int, pipe: Any) -> None:
    torch.set_num_threads(threads)
    start, updates = draw(spec, rank)
    strategy, plan = _begun(spec, start, max(2, load(spec, Strategy).least_updates))
    strategy.aggregate(plan, stream(updates, len(plan.clients)))
    forget_peak()
    before = resident()
    seconds = []
    for _ in range(repeats):
        strategy, plan = _begun(spec, start, clients)
        begin = time.process_time()
        strategy.aggregate(plan, stream(updates, clients))
        seconds.append(time.process_time() - begin)
    pipe.send((min(seconds), max(0, peak() - before)))


def measure(
    spec: str, clients: int, rank: int, repeats: int, threads: int
) -> tuple[float, int] | None:
    """Return CPU seconds (best of ``repeats``) and peak bytes; None if it failed."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (spec, clients, rank, repeats, threads, sender)
    child = context.Process(target=_in_child, args=arguments)
    child.start()
    sender.close()
    try:
        result: tuple[float, int] | None = receiver.recv()
    except EOFError:
        result = None
    child.join()
    return result


def needed(spec: str, clients: int, rank: int) -> float:
    """Return an estimate of the gigabytes ``spec`` needs, from one adapter's size."""
    collects = spec.partition("(")[0] not in STREAMING
    size = num_bytes(adapter(rank, torch.Generator()))
    return (clients * collects + 2 * DISTINCT + 20) * size / 1e9


def main() -> None:
    """Print one table per number of clients and rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--strategies", nargs="+", default=STREAMING + COLLECTING, metavar="SPEC")
    parser.add_argument("--repeats", type=int, default=2, help="1 for a minute and more")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", type=float, default=12.0, help="GB")
    arguments = parser.parse_args()
    specs = ["fedavg", *(spec for spec in arguments.strategies if spec != "fedavg")]
    for rank in arguments.ranks:
        size = num_bytes(adapter(rank, torch.Generator()))
        for clients in arguments.clients:
            print(
                f"\n{clients:,} clients of ViT-B/16 LoRA r={rank} ({size / 1e6:.2f} MB each), "
                f"{arguments.threads} thread(s)\n"
            )
            print("| strategy | CPU seconds | times FedAvg | peak MB | in adapters |")
            print("|---|---:|---:|---:|---:|")
            base = 0.0
            for spec in specs:
                if (least := load(spec, Strategy).least_updates) > clients:
                    print(f"| {spec} | needs {least} clients | | | |")
                    continue
                if needed(spec, clients, rank) > arguments.memory:
                    print(f"| {spec} | needs {needed(spec, clients, rank):.1f} GB | | | |")
                    continue
                repeats = 1 if clients >= 1000 else arguments.repeats
                measured = measure(spec, clients, rank, repeats, arguments.threads)
                if measured is None:
                    print(f"| {spec} | failed | | | |")
                    continue
                seconds, peak = measured
                base = base or seconds
                print(
                    f"| {spec} | {seconds:.3f} | {seconds / base:.1f} | {peak / 1e6:,.0f} "
                    f"| {peak / size:,.1f} |",
                    flush=True,
                )


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


if __name__ == "__main__":
    main()
