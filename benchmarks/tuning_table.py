"""What every tuning method does to accuracy and calibration: one seed, a sanity table.

    python -m benchmarks.tuning_table                  # the embedded default's held-back styles
    python -m benchmarks.tuning_table --fashion        # Fashion-MNIST
    python -m benchmarks.tuning_table --record tuning.jsonl     # go on where a table was cut off
    python -m benchmarks.tuning_table --record tuning.jsonl --every-rate --only lora --only prompt

FedAvg over ten clients, Dirichlet(0.3) labels, ``ROUNDS`` rounds of one epoch. Every method is run
with every learning rate of ``GRID``. Shown are the figures of the central test set with the rate of
least NLL on the clients' own held-out images, a fifth of their training data: of a few hundred
images, accuracy says too little.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.small_runs import cell, run_once
from fl2ora.clip_tuning.adapter import num_parameters
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.shares import load_federation

CLIENTS, ROUNDS = 10, 8
GRID = (0.003, 0.03, 0.3)
EMBEDDED = "shapes(styles='held-back')"
FASHION = "fashion_mnist(train=5000)"
METHODS = (
    "zero_shot", "lora", "lora(towers='vision')", "lora(towers='text')", "layer_norm", "bitfit",
    "full", "logit_scale", "logit_scale('lora')", "linear_probe", "clip_adapter", "task_res",
    "tip_adapter", "tip_adapter_f", "coop", "coop(length=4, init='template')", "kgcoop", "prograd",
    "cocoop", "tcp", "fedtpg", "fedotp", "fedpgp", "promptfolio", "vpt", "vpt(depth=1)", "ivlp",
    "maple", "prompt_src",
)  # fmt: skip
COLUMNS = {
    "accuracy": "accuracy", "ECE": "ece", "MCE": "mce", "NLL": "nll",
    "personal ECE": "clients-test-personal/ece", "s/round": "cost/seconds",
}  # fmt: skip
Figures = dict[str, dict[str, Any]]


def main(
    fashion: bool = False,
    only: Annotated[list[str] | None, typer.Option(help="Methods; all by default.")] = None,
    record: Annotated[Path | None, typer.Option(help="Keeps every run; taken up again.")] = None,
    every_rate: Annotated[bool, typer.Option(help="A row for every learning rate.")] = False,
    rounds: Annotated[int, typer.Option(help="Of every run.")] = ROUNDS,
) -> None:
    """Print the table."""
    dataset = FASHION if fashion else EMBEDDED
    print(f"| method | learning rate | {' | '.join(COLUMNS)} | values sent |")
    print("|---|" + "---:|" * (len(COLUMNS) + 2), flush=True)
    for method in only or METHODS:
        runs = {rate: _run(dataset, method, rate, rounds, record) for rate in _rates(method)}
        best = min(runs, key=lambda rate: _validation(runs[rate]))
        count = f"{_parameters(dataset, method):,}"
        for rate in runs if every_rate else [best]:
            cells = [cell(runs[rate], column) for column in COLUMNS.values()]
            shown = f"{rate:g}" if len(runs) > 1 else "-"
            print(f"| {' | '.join([f'`{method}`', shown, *cells, count])} |", flush=True)


def _rates(method: str) -> tuple[float, ...]:
    """Return the learning rates to try; nothing to learn needs one."""
    return GRID[:1] if method in ("zero_shot", "tip_adapter") else GRID


def _validation(figures: Figures) -> float:
    """Return what is best where it is least; a run that broke off is worst."""
    return float(figures.get("clients-test", {}).get("nll", math.inf))


def _run(dataset: str, method: str, rate: float, rounds: int, record: Path | None) -> Figures:
    """Return the last figures of one run by source; of one that diverged, none."""
    settings = {
        "dataset": dataset, "method": method, "learning-rate": rate, "num-rounds": rounds,
        "eval-every": rounds, "partition": "dirichlet(beta=0.3)", "seed": 0,
    }  # fmt: skip
    key = {**settings, "clients": CLIENTS}
    lines = record.read_text(encoding="utf-8").splitlines() if record and record.exists() else []
    for line in map(json.loads, lines):
        if line["key"] == key:
            figures: Figures = line["figures"]
            return figures
    try:
        figures = run_once(settings, CLIENTS)
    except UserError:
        figures = {}
    if record:
        with record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "figures": figures}) + "\n")
    return figures


def _parameters(dataset: str, method: str) -> int:
    """Return how many values travel each way and round."""
    data = load_federation(dataset, "in_distribution")
    classifier = build_classifier("embedded", method, data.class_names, data.templates, 0)
    return num_parameters(classifier.export())


if __name__ == "__main__":
    typer.run(main)
