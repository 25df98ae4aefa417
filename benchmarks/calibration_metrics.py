"""Speed and memory of the calibration metrics beside torchmetrics, netcal and scikit-learn.

One set of float32 probabilities ``(rows, classes)`` is drawn; then every contender computes what it
can of ECE, MCE, equal-mass ECE, Brier score and NLL, each in a forked process of its own that sees
the same array, so that its peak memory is its own. Values that should be equal are compared.
Processor seconds (one thread) are what the ratios are made of: wall time on a shared machine
measures the neighbours too.

    python -m benchmarks.calibration_metrics --rows 200000
    python -m benchmarks.calibration_metrics        # 1,000,000 x 1,000: 4 GB for the array

A contender that would need more memory than ``--memory`` gigabytes beside the array is given the
first rows only; its time per row is what is compared, and the table says how many rows it saw.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.process_memory import forget_peak, peak, resident

Metrics = dict[str, float]
Contender = Callable[[Any, Any], Metrics]

NUM_BINS = 15
OURS = "fl2ora"
GIGABYTE = 1 << 30
TOLERANCE = 2e-4  # netcal cuts equal-mass bins elsewhere; torchmetrics adds up in float32
# Bytes per element that a contender allocates beside the float32 array: measured, rounded up.
APPETITE = {"netcal": 9.0, "scikit-learn": 50.0, "torchmetrics": 4.0}


class Result(NamedTuple):
    """Processor and wall seconds of the best run, peak bytes beside the array, the metrics."""

    processor: float
    wall: float
    memory: int
    metrics: Metrics


def draw(rows: int, classes: int, seed: int = 0) -> tuple[Any, Any]:
    """Return float32 probabilities ``(rows, classes)`` of a fairly confident model, and labels."""
    rng = np.random.default_rng(seed)
    probabilities = np.empty((rows, classes), np.float32)
    labels = rng.integers(0, classes, rows)
    for start in range(0, rows, 4096):
        block = probabilities[start : start + 4096]
        rng.standard_normal(dtype=np.float32, out=block)
        favourite = rng.integers(0, classes, len(block))
        block[np.arange(len(block)), favourite] += rng.uniform(5, 13, len(block))
        right = rng.random(len(block)) < 0.7
        labels[start : start + 4096][right] = favourite[right]
        np.exp(block, out=block)
        block /= block.sum(axis=1, keepdims=True)
    return probabilities, labels


def pooled(probabilities: Any, labels: Any) -> Metrics:
    """The whole set, exact, in one pass."""
    from fl2ora.calibration.summaries import summarise_pooled

    return _picked(summarise_pooled(probabilities, labels, num_bins=NUM_BINS))


def streamed(probabilities: Any, labels: Any) -> Metrics:
    """The whole set from additive sums, fed 1,024 rows at a time; equal-mass ECE approximate."""
    from fl2ora.calibration.accumulator import CalibrationAccumulator

    accumulator = CalibrationAccumulator("probabilities", num_bins=NUM_BINS)
    for start in range(0, len(labels), 1024):
        part = slice(start, start + 1024)
        accumulator.update(probabilities[part], labels[part])
    return _picked(accumulator.compute())


def torchmetrics(probabilities: Any, labels: Any) -> Metrics:
    """ECE and MCE; the library has neither equal-mass ECE, nor Brier score, nor NLL."""
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    p, y = torch.from_numpy(probabilities), torch.from_numpy(labels)
    norms = {"ece": "l1", "mce": "max"}
    return {
        name: float(multiclass_calibration_error(p, y, p.shape[1], n_bins=NUM_BINS, norm=norm))
        for name, norm in norms.items()
    }


def netcal(probabilities: Any, labels: Any) -> Metrics:
    """ECE, MCE and equal-mass ECE (with its own cuts); it has neither Brier score nor NLL."""
    from netcal.metrics import ECE, MCE

    return {
        "ece": float(ECE(NUM_BINS).measure(probabilities, labels)),
        "mce": float(MCE(NUM_BINS).measure(probabilities, labels)),
        "ace": float(ECE(NUM_BINS, equal_intervals=False).measure(probabilities, labels)),
    }


def scikit_learn(probabilities: Any, labels: Any) -> Metrics:
    """Brier score and NLL, which complete the set where the two others have none."""
    from sklearn.metrics import brier_score_loss, log_loss

    classes = np.arange(probabilities.shape[1])
    wide = probabilities.astype(np.float64)
    wide /= wide.sum(axis=1, keepdims=True)  # it warns about float32 rounding otherwise
    return {
        "nll": float(log_loss(labels, wide, labels=classes)),
        "brier": float(brier_score_loss(labels, wide, labels=classes)),
    }


CONTENDERS: dict[str, Contender] = {
    OURS: pooled,
    "fl2ora, streamed": streamed,
    "torchmetrics": torchmetrics,
    "netcal": netcal,
    "scikit-learn": scikit_learn,
}


def _picked(summary: Metrics) -> Metrics:
    return {name: summary[name] for name in ("ece", "mce", "ace", "brier", "nll")}


def _in_child(
    name: str, probabilities: Any, labels: Any, threads: int, repeats: int, pipe: Any
) -> None:
    import torch

    torch.set_num_threads(threads)
    CONTENDERS[name](probabilities[:64], labels[:64] % 7)  # imports and first-call work
    int(probabilities.sum(dtype=np.float32) > 0)  # every page of the array is resident
    forget_peak()
    before = resident()
    runs = []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        metrics = CONTENDERS[name](probabilities, labels)
        runs.append((time.process_time() - processor, time.perf_counter() - wall))
    pipe.send(Result(*min(runs), max(0, peak() - before), metrics))


def measure(name: str, probabilities: Any, labels: Any, threads: int, repeats: int) -> Result:
    """Measure one contender in a process of its own; nothing here may start torch's threads."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(
        target=_in_child, args=(name, probabilities, labels, threads, repeats, sender)
    )
    child.start()
    sender.close()
    try:
        result: Result = receiver.recv()
    except EOFError:
        raise SystemExit(f"{name} ended without a result: out of memory?") from None
    child.join()
    return result


def main() -> None:
    """Print the table, the ratios and the disagreements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--memory", type=float, default=10.0, help="GB beside the array")
    arguments = parser.parse_args()
    probabilities, labels = draw(arguments.rows, arguments.classes)
    print(
        f"{arguments.rows:,} x {arguments.classes:,} float32, {probabilities.nbytes / 1e9:.1f} GB, "
        f"{arguments.threads} threads, best of {arguments.repeats}\n"
    )
    print("| contender | rows | metrics | cpu s | wall s | cpu us/row | peak memory | times ours |")
    print("|---|---|---|---|---|---|---|---|")
    per_row: dict[str, float] = {}
    remarks: list[str] = []
    for name in CONTENDERS:
        rows = arguments.rows
        if name in APPETITE:
            room = arguments.memory * GIGABYTE
            rows = min(rows, int(room / APPETITE[name] / arguments.classes))
        part = probabilities[:rows], labels[:rows]
        result = measure(name, *part, arguments.threads, arguments.repeats)
        per_row[name] = result.processor / rows
        print(
            f"| {name} | {rows:,} | {' '.join(result.metrics)} | {result.processor:.2f} "
            f"| {result.wall:.2f} | {1e6 * per_row[name]:.2f} | {result.memory / 1e6:,.0f} MB "
            f"| {per_row[name] / per_row[OURS]:.1f} |",
            flush=True,
        )
        remarks += _differences(name, result.metrics, measure(OURS, *part, 1, 1))
    both = (per_row["torchmetrics"] + per_row["netcal"]) / per_row[OURS]
    print(f"\nWhat torchmetrics and netcal have of the set takes {both:.1f} times as long as ours.")
    print("\n".join(remarks) if remarks else f"All metrics agree within {TOLERANCE}.")


def _differences(name: str, metrics: Metrics, reference: Result) -> list[str]:
    """Return a line for each of ``metrics`` that differs from ours on the same rows."""
    return [
        f"{name}: {metric} is {value:.6f}, ours {reference.metrics[metric]:.6f}"
        for metric, value in metrics.items()
        if not abs(value - reference.metrics[metric]) <= TOLERANCE
    ]


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


if __name__ == "__main__":
    main()
