"""Compression of updates on the embedded default: bytes up, and what they cost in accuracy.

python -m benchmarks.compression_table
python -m benchmarks.compression_table --seeds 1 --rounds 2
"""

from __future__ import annotations

import statistics

import typer

from benchmarks.small_runs import run_once

CLIENTS = 10
SPECS = (
    "none",
    "fp16",
    "int8",
    "top_k(share=0.1)",
    "top_k(share=0.01)",
)


def main(
    seeds: int = typer.Option(2, help="Runs of each row."),
    rounds: int = typer.Option(10, help="Of every run."),
) -> None:
    """Print the table: means over the seeds, and of accuracy the standard deviation too."""
    print("| compression | bytes up | accuracy % | sd | NLL | ECE % |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for spec in SPECS:
        settings = {"compression": spec, "num-rounds": rounds, "eval-every": rounds}
        found = [run_once({**settings, "seed": seed}, CLIENTS) for seed in range(seeds)]
        accuracy, nll, ece = (
            [figures["server-test"][name] for figures in found]
            for name in ("accuracy", "nll", "ece")
        )
        spread = statistics.stdev(accuracy) if seeds > 1 else 0.0
        cells = (
            f"{found[0]['training']['bytes_up']:,.0f}",
            f"{100 * statistics.fmean(accuracy):.2f}",
            f"{100 * spread:.2f}",
            f"{statistics.fmean(nll):.4f}",
            f"{100 * statistics.fmean(ece):.2f}",
        )
        print(f"| `{spec}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
