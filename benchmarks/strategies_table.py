"""Every strategy on the embedded default: one seed, a sanity table and no study.

    python -m benchmarks.strategies_table
    python -m benchmarks.strategies_table --only fedavg,krum --rounds 1

Twenty clients, half of them sampled, Dirichlet(0.1) labels, 15 rounds. One learning rate for all:
a strategy with a server learning rate of its own may want another.
"""

from __future__ import annotations

import typer

from benchmarks.small_runs import compare
from fl2ora.experiment.plugins import available
from fl2ora.strategies.base import Strategy

CLIENTS = 20
SETTINGS = {
    "dataset": "shapes(styles='held-back')",
    "partition": "dirichlet(beta=0.1)",
    "fraction-train": 0.5,
    "learning-rate": 0.1,
    "seed": 0,
}
# Where a default makes no sense here, or a method needs a partner.
SPECS = {
    "dp_fedavg": {"strategy": "dp_fedavg(seed=1)"},
    "scaffold": {"strategy": "scaffold", "optimiser": "sgd(momentum=0)"},
    "fedex_lora": {"strategy": "fedex_lora", "method": "lora_residual"},
    "flora": {"strategy": "flora", "method": "lora_residual"},
}
# They do what the strategy they wrap does, and something to its clients.
WRAPPERS = ("attacked", "clipped", "local_dp")
COLUMNS = (
    "accuracy", "clients-test/ece", "ece", "mce", "nll", "training/bytes_down", "training/bytes_up",
    "training/lora_aggregation_error", "cost/seconds", "cost/drops",
)  # fmt: skip


def main(
    only: str = typer.Option("", help="Comma-separated strategies; all by default."),
    rounds: int = typer.Option(15, help="Of every run."),
) -> None:
    """Print the table."""
    settings = {**SETTINGS, "num-rounds": rounds, "eval-every": rounds}
    every = [name for name in available(Strategy) if name not in WRAPPERS]
    names = [name for name in only.split(",") if name] or every
    rows = [(name, {**settings, **SPECS.get(name, {"strategy": name})}) for name in names]
    compare([("zero-shot", {**settings, "num-rounds": 0}), *rows], CLIENTS, COLUMNS)


if __name__ == "__main__":
    typer.run(main)
