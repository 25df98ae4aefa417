"""How often the intervals of a run hold the truth, where errors are rare and where they are not.

python -m benchmarks.intervals               # 400 simulations a row, about 5 minutes
python -m benchmarks.intervals --runs 50     # a first look
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import typer

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.uncertainty import intervals_over_examples

Random = np.random.Generator
SHAPES: dict[str, Callable[[Random, int], Floats]] = {
    "accuracy 80 %": lambda rng, n: 0.5 + 0.5 * rng.beta(2, 1.3, n),
    "accuracy 97 %": lambda rng, n: np.clip(1 - rng.gamma(0.6, 0.05, n), 0.5, 1 - 1e-9),
    "accuracy 99.5 %": lambda rng, n: np.clip(1 - rng.gamma(0.3, 0.016, n), 0.5, 1 - 1e-9),
    "always .99": lambda _, n: np.full(n, 0.99),
}
SHOWN = ("accuracy", "ece", "ace", "mce", "mce_weighted", "over_confidence", "under_confidence",
         "nll", "brier")  # fmt: skip
SPEC = StatsSpec()
FAR = 400_000


def draw(rng: Random, shape: str, over: float, n: int) -> tuple[Floats, Floats]:
    """Return confidences and the chance to be right of a model overconfident by ``over``."""
    c = SHAPES[shape](rng, n)
    return c, np.clip(c - over, 0, 1)


def stats_of(c: Floats, right: Floats) -> CalibrationStats:
    """Return the sums of predictions over two classes."""
    p = np.stack([c, 1 - c], axis=1)
    return CalibrationStats.from_probabilities(p, 1 - right.astype(np.int64), SPEC)


def truth_of(rng: Random, shape: str, over: float) -> dict[str, float]:
    """Return the metrics at the true accuracies, from many examples; MCE is left to ``main``."""
    c, chance = draw(rng, shape, over, FAR)
    index = np.minimum((c * 15).astype(int), 14)
    gap = np.bincount(index, c - chance, minlength=15) / FAR
    order = (c - chance)[np.argsort(c)].reshape(-1, FAR // 16)  # near enough to 15 groups
    wrong = 1 - chance
    return {
        "accuracy": chance.mean(),
        "ece": np.abs(gap).sum(),
        "ace": np.abs(order.mean(axis=1)).mean(),
        "mce_weighted": np.abs(gap).max(),
        "over_confidence": np.maximum(gap, 0).sum(),
        "under_confidence": np.maximum(-gap, 0).sum(),
        "nll": -(chance * np.log(c) + wrong * np.log1p(-c)).mean(),
        "brier": (2 * chance * (1 - c) ** 2 + 2 * wrong * c**2).mean(),
    }


def true_mce(c: Floats, chance: Floats) -> float:
    """Return the largest true gap of the bins that hold an example."""
    index = np.minimum((c * 15).astype(int), 14)
    count = np.bincount(index, minlength=15)
    gap = np.bincount(index, c - chance, minlength=15)
    return float(np.abs(gap[count > 0] / count[count > 0]).max())


def main(runs: int = 400, seed: int = 0, draws: int = 4000) -> None:
    """Print the share of 95 % intervals that hold the truth."""
    print(f"| model | n | {' | '.join(SHOWN)} |")
    print(f"| --- | ---: |{' ---: |' * len(SHOWN)}")
    for place, (shape, over) in enumerate((s, o) for o in (0.0, 0.05) for s in SHAPES):
        truth = truth_of(np.random.default_rng([seed, place]), shape, over)
        for n in (50, 200, 300, 2000):
            rng, held = np.random.default_rng([seed, place, n]), dict.fromkeys(SHOWN, 0)
            for _ in range(runs):
                c, chance = draw(rng, shape, over, n)
                truth["mce"] = true_mce(c, chance)
                stats = stats_of(c, rng.random(n) < chance)
                found = intervals_over_examples(stats, resamples=draws)
                for name in SHOWN:
                    interval = found[name]
                    held[name] += interval.low - 1e-9 <= truth[name] <= interval.high + 1e-9
            text = f"{shape}, over by {over}" if over else f"{shape}, calibrated"
            shares = " | ".join(f"{held[name] / runs:.3f}" for name in SHOWN)
            print(f"| {text} | {n:,} | {shares} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
