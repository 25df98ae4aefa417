"""What DCA, MDCA and temperature scaling do to a federated model: one seed, a sanity table.

python -m benchmarks.losses_table                  # Fashion-MNIST
python -m benchmarks.losses_table --embedded       # the embedded default's held-back styles
python -m benchmarks.losses_table --embedded --only '+ DCA' --rounds 1
"""

from __future__ import annotations

import typer

from benchmarks.small_runs import compare

CLIENTS = 10
FASHION = {
    "dataset": "fashion_mnist(train=5000)",
    "partition": "dirichlet(beta=0.3)",
    "learning-rate": 0.1,
    "seed": 0,
}
EMBEDDED = {**FASHION, "dataset": "shapes(styles='held-back')"}
LOSSES = {
    "cross-entropy": "cross_entropy",
    "+ DCA": "cross_entropy + dca",
    "+ 10 DCA": "cross_entropy + 10*dca",
    "+ MDCA": "cross_entropy + mdca",
    "+ 10 MDCA": "cross_entropy + 10*mdca",
    "label smoothing 0.1": "label_smoothing(alpha=0.1)",
    "focal": "focal(gamma=2.0)",
}
COLUMNS = (
    "accuracy", "ece", "mce", "nll", "clients-test/ece", "clients-test-mean/ece",
    "server-test-calibrated/ece", "server-test-calibrated/nll", "cost/seconds",
)  # fmt: skip


def main(
    embedded: bool = typer.Option(False, help="The embedded default's held-back styles."),
    only: list[str] | None = typer.Option(None, help="Rows; all by default."),  # noqa: B008
    rounds: int = typer.Option(10, help="Of every run."),
) -> None:
    """Print the table; temperature scaling is fitted after each run, in the federation."""
    base = {
        **(EMBEDDED if embedded else FASHION), "calibrator": "temperature", "num-rounds": rounds,
        "eval-every": rounds,
    }  # fmt: skip
    rows = [(name, {**base, "loss": LOSSES[name]}) for name in only or LOSSES]
    compare([("zero-shot", {**base, "num-rounds": 0}), *rows], CLIENTS, COLUMNS)


if __name__ == "__main__":
    typer.run(main)
