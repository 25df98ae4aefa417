"""What the study's runs say: a row for each run and held-out part, and tables of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from fl2ora.calibration.metrics.binned import ece_of
from fl2ora.calibration.metrics.smooth import smooth_ece_of_scores
from fl2ora.calibration.predictions import Scores
from fl2ora.calibration.stats import StatsSpec
from fl2ora.reporting.collected_runs import FinishedRun, collect
from fl2ora.reporting.logits import SavedLogits
from fl2ora.reporting.reliability_rows import stats_of_scores
from fl2ora.reporting.saved_scores import saved_scores
from fl2ora.reporting.sweep_folder import DONE, SWEEP_FILE, SweepRecord

SWEEPS = (
    "methods",
    "losses",
    "losses-class-specific",
    "lora-aggregators",
    "longer",
    "rates",
    "transfer",
    "methods-drawings",
)
METRICS = ("accuracy", "smooth_ece", "ece", "over", "nll")
LABELS = (
    "method",
    "shots",
    "skew",
    "training",
    "strategy",
    "loss",
    "learning-rate",
    "protocol",
)


def results(folder: Path) -> pd.DataFrame:
    """Return all runs of the sweeps in a folder: labels, seed, part, and metrics before and after.

    Columns ``zero_*`` are of the untuned model on the same images.
    """
    rows = [
        {"sweep": sweep, **row}
        for sweep in SWEEPS
        if _has_run(folder / sweep)
        for run in collect([folder / sweep]).runs
        for row in _rows(run)
    ]
    return pd.DataFrame(rows).reindex(
        columns=["sweep", *LABELS, "seed", "part", *METRICS, *(f"zero_{m}" for m in METRICS)]
    )


def _has_run(sweep: Path) -> bool:
    """Return whether a cell of a sweep is done."""
    if not (sweep / SWEEP_FILE).exists():
        return False
    return any(cell.state == DONE for cell in SweepRecord.load(sweep).cells)


def _rows(run: FinishedRun) -> Iterator[dict[str, Any]]:
    labels = {"method": run.config["method"], "learning-rate": run.config["learning-rate"]}
    for part in SavedLogits.load(run.folder).central:
        scores = saved_scores(run.folder, "none", part)
        measured = {
            **_metrics(scores.final),
            **{f"zero_{name}": value for name, value in _metrics(scores.zero_shot).items()},
        }
        named = {**labels, **run.labels}
        named["learning-rate"] = float(named["learning-rate"])
        yield {**named, "seed": run.seed, "part": part, **measured}


def _metrics(scores: Scores) -> dict[str, float]:
    """Return the study's metrics; fractions, NLL in nats."""
    return {
        "accuracy": float(scores.correct.mean()),
        "smooth_ece": smooth_ece_of_scores(scores),
        "ece": ece_of(stats_of_scores(scores, StatsSpec(num_bins=15))),
        "over": float(scores.confidence.mean() - scores.correct.mean()),
        "nll": float(scores.nll.mean()),
    }


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of paired differences with its 95 % interval, by Student's t.

    >>> [round(value, 3) for value in interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    values = np.asarray(differences, float)
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count)
    return mean, mean - float(half), mean + float(half)


def tables(table: pd.DataFrame) -> str:
    """Return a Markdown table for each sweep: means over the seeds, and changes with intervals."""
    texts = []
    for sweep, runs in table.groupby("sweep", sort=False):
        axes = [name for name in (*LABELS, "part") if runs[name].nunique() > 1] or ["method"]
        rows = [_line(names, group) for names, group in runs.groupby(axes, sort=False)]
        head = [
            *axes, "runs", "zero-shot smooth ECE", "accuracy", "smooth ECE", "its change",
            "ECE", "over", "NLL",
        ]  # fmt: skip
        ruled = "| " + " | ".join(["---"] * len(axes) + ["---:"] * (len(head) - len(axes))) + " |"
        texts.append("\n".join([f"## {sweep}", "", f"| {' | '.join(head)} |", ruled, *rows, ""]))
    return "\n".join(texts)


def _line(names: Any, group: pd.DataFrame) -> str:
    def percent(name: str) -> str:
        return f"{100 * group[name].mean():.1f} ± {100 * group[name].std():.1f}"

    mean, low, high = interval(list(100 * (group["smooth_ece"] - group["zero_smooth_ece"])))
    zero = f"{100 * group['zero_smooth_ece'].mean():.1f}"
    change = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
    cells = [
        *map(str, names), str(len(group)), zero, percent("accuracy"), percent("smooth_ece"),
        change, percent("ece"), percent("over"), f"{group['nll'].mean():.3f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"
