"""How often the test of a difference in calibration claims what is not so, and what is.

python -m benchmarks.differences              # 600 simulations a row, about 15 minutes
python -m benchmarks.differences --runs 100   # a first look
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import typer
from scipy.special import ndtr

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.comparison import (
    compare_on_same_examples,
    compare_over_clients,
    compare_over_examples,
)
from fl2ora.calibration.predictions import Scores
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summation import sums_of_scores

Random = np.random.Generator
Model = tuple[Floats, Floats]  # confidence, correct
SPEC = StatsSpec(num_bins=15, fine_bins=0)
SHAPES: dict[str, Callable[[Random, int], Floats]] = {
    "sharp": lambda rng, n: 0.5 + 0.5 * rng.beta(20, 1, n),
    "very sharp": lambda rng, n: 1 - 0.01 * rng.random(n),
    "usual": lambda rng, n: 0.2 + 0.8 * rng.beta(3, 1.5, n),
    "wide": lambda rng, n: rng.uniform(0.2, 0.94, n),
}


@dataclass(frozen=True)
class Row:
    """One simulated setting; ``better`` is the truth: ``first``, ``second`` or ``equal``."""

    text: str
    better: str
    judge: Callable[[Random], str]


def independent(
    one: tuple[str, int, float], two: tuple[str, int, float]
) -> Callable[[Random], str]:
    """Return a judge of models (shape, examples, overconfidence) on images of their own."""

    def judge(rng: Random) -> str:
        first, second = (stats_of(*draw(rng, *model)) for model in (one, two))
        return compare_over_examples(first, second).better

    return judge


def paired(make: Callable[[Random], tuple[Model, Model]]) -> Callable[[Random], str]:
    """Return a judge of two models on the same images."""

    def judge(rng: Random) -> str:
        first, second = make(rng)
        return compare_on_same_examples(scores_of(*first), scores_of(*second)).better

    return judge


def of_clients(
    clients: int, one: tuple[str, float], two: tuple[str, float], alike: float = 0.1
) -> Callable[[Random], str]:
    """Return a judge of models (shape, overconfidence) on 100 images of each client.

    A client's accuracy is off by a normal deviate of ``4 c (1 - c) alike``, correlated 0.7 between
    the models.
    """

    def judge(rng: Random) -> str:
        shared, own = rng.standard_normal(clients), rng.standard_normal((2, clients))
        parts: list[list[CalibrationStats]] = []
        for (shape, over), mine in zip((one, two), own, strict=True):
            shifts = alike * (0.7**0.5 * shared + 0.3**0.5 * mine)
            group = []
            for shift in shifts:
                c = SHAPES[shape](rng, 100)
                chance = np.clip(c - over + 4 * c * (1 - c) * shift, 0, 1)
                group.append(stats_of(c, (rng.random(100) < chance).astype(float)))
            parts.append(group)
        return compare_over_clients(*parts).better

    return judge


def draw(rng: Random, shape: str, n: int, over: float) -> Model:
    """Return confidences and outcomes of a model overconfident by ``over`` everywhere."""
    c = SHAPES[shape](rng, n)
    return c, (rng.random(n) < np.clip(c - over, 0, 1)).astype(float)


def sharp_and_coarse(rng: Random, n: int) -> tuple[Model, Model]:
    """Return two calibrated models that are right on the same images; the second sees less."""
    chance = rng.uniform(0.3, 1, n)
    correct = (rng.random(n) < chance).astype(float)
    return (chance, correct), (np.where(chance < 0.65, 0.475, 0.825), correct)


def wide_and_sharp(rng: Random, n: int) -> tuple[Model, Model]:
    """Return two calibrated models whose errors fall on the same images more often than not."""
    shared, own = rng.standard_normal(n), rng.standard_normal(n)
    first, second = SHAPES["wide"](rng, n), SHAPES["sharp"](rng, n)
    other = 0.7 * shared + 0.51**0.5 * own
    return (first, (ndtr(shared) < first).astype(float)), (
        second,
        (ndtr(other) < second).astype(float),
    )


def shifted(one: float, two: float, n: int) -> Callable[[Random], tuple[Model, Model]]:
    """Return two models right on the same images, overconfident by ``one`` and by ``two``."""

    def make(rng: Random) -> tuple[Model, Model]:
        chance = rng.uniform(0.3, 0.9, n)
        correct = (rng.random(n) < chance).astype(float)
        return (chance + one, correct), (chance + two, correct)

    return make


def scores_of(confidence: Floats, correct: Floats) -> Scores:
    """Return scores that hold what calibration reads."""
    nothing = np.zeros(len(confidence))
    return Scores(confidence, correct, nothing.astype(np.int64), nothing, nothing)


def stats_of(confidence: Floats, correct: Floats) -> CalibrationStats:
    """Return the sums of one model."""
    return CalibrationStats(SPEC, **sums_of_scores(scores_of(confidence, correct), SPEC))


def rows() -> list[Row]:
    """Return the settings: equal errors first, then one really better."""
    found = [
        Row(f"calibrated: sharp, wide; {n:,} images each", "equal",
            independent(("sharp", n, 0), ("wide", n, 0)))
        for n in (500, 2000, 10_000)
    ]  # fmt: skip
    equal = "equal"
    found += [
        Row("calibrated: confidence over .99, wide; 500 each", equal,
            independent(("very sharp", 500, 0), ("wide", 500, 0))),
        Row("calibrated: the same model on 2,000 and 500", equal,
            independent(("usual", 2000, 0), ("usual", 500, 0))),
        Row("over by .05: wide, wide; 2,000 each", equal,
            independent(("wide", 2000, 0.05), ("wide", 2000, 0.05))),
        Row("over by .05, under by .05: wide; 500 each", equal,
            independent(("wide", 500, 0.05), ("wide", 500, -0.05))),
        Row("same images, calibrated: fine, coarse; 500", equal,
            paired(lambda rng: sharp_and_coarse(rng, 500))),
        Row("same images, calibrated: fine, coarse; 5,000", equal,
            paired(lambda rng: sharp_and_coarse(rng, 5000))),
        Row("same images, calibrated: wide, sharp; 2,000", equal,
            paired(lambda rng: wide_and_sharp(rng, 2000))),
        Row("same images: over, under by .05; 500", equal, paired(shifted(0.05, -0.05, 500))),
        Row("same images: over, under by .05; 2,000", equal, paired(shifted(0.05, -0.05, 2000))),
    ]  # fmt: skip
    for k in (10, 20, 50):
        found += [
            Row(f"{k} clients, calibrated: sharp, wide", equal,
                of_clients(k, ("sharp", 0), ("wide", 0))),
            Row(f"{k} clients: usual, over by .05 both", equal,
                of_clients(k, ("usual", 0.05), ("usual", 0.05))),
            Row(f"{k} clients: usual, over and under by .05", equal,
                of_clients(k, ("usual", 0.05), ("usual", -0.05))),
        ]  # fmt: skip
    second = "second"
    for n in (2000, 10_000):
        for over in (0.01, 0.03, 0.05):
            found += [
                Row(f"over by {over}, calibrated: usual; {n:,} each", second,
                    independent(("usual", n, over), ("usual", n, 0))),
                Row(f"same images: over by {over}, calibrated; {n:,}", second,
                    paired(shifted(over, 0, n))),
            ]  # fmt: skip
    found.append(
        Row("same images: over by .05, by .04; 2,000", second, paired(shifted(0.05, 0.04, 2000)))
    )
    for k in (10, 20, 50):
        for over in (0.05, 0.1):
            judge = of_clients(k, ("usual", over), ("usual", 0))
            found.append(Row(f"{k} clients: over by {over}, calibrated: usual", second, judge))
    return found


def main(runs: int = 600, seed: int = 0) -> None:
    """Print how often each model is called the better one, at the nominal 5 %."""
    print("| setting | better in truth | first called better | second called better |")
    print("| --- | --- | ---: | ---: |")
    for place, row in enumerate(rows()):
        rng = np.random.default_rng([seed, place])
        said = [row.judge(rng) for _ in range(runs)]
        shares = " | ".join(f"{said.count(name) / runs:.1%}" for name in ("first", "second"))
        print(f"| {row.text} | {row.better} | {shares} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
