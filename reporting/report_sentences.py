"""What a run or a sweep found, in sentences for people who read nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from fl2ora.calibration.comparison import compare_on_same_examples
from fl2ora.calibration.metrics.table import METRICS
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.collected_runs import Collection, FinishedRun
from fl2ora.reporting.comparison import (
    ZERO_SHOT,
    blocks,
    final_row,
    naming_axis,
    ranks,
    zero_shot_row,
)
from fl2ora.reporting.comparison_text import SIGNIFICANT
from fl2ora.reporting.saved_scores import saved_scores

_METRICS = {metric.name: metric for metric in METRICS}
_NEARLY = 0.0005  # a fraction that is shown as 0.0 %


def run_sentences(run: FinishedRun, source: str) -> list[str]:
    """Say how accuracy and confidence changed, and whether the change in calibration is chance."""
    before, after = zero_shot_row(run, source), final_row(run, source)
    if not {"accuracy", "confidence", "ece"} <= before.keys() & after.keys():
        return ["The run measured no accuracy, confidence and ECE."]
    calibrator = str(run.config.get("calibrator", "none"))
    after_what = (
        "training" if calibrator == "none" else f"training and {calibrator.partition('(')[0]}"
    )
    return [
        f"Accuracy on the central test images went from {_percent(before['accuracy'])} (zero-shot) "
        f"to {_percent(after['accuracy'])}.",
        f"The model's confidence was {_leaning(before)} before, and is {_leaning(after)} after "
        f"{after_what}; its calibration error (ECE) went from {_percent(before['ece'])} to "
        f"{_percent(after['ece'])}. {_significance(run, calibrator, source)}",
    ]


def sweep_sentences(
    collection: Collection, summary: pd.DataFrame, tests: pd.DataFrame
) -> list[str]:
    """Say which settings are best, and how many differ from the baseline by more than chance."""
    groups = collection.groups()
    seeds = sorted({len(runs) for runs in groups.values()})
    span = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    count = "1 seed" if span == "1" else f"{span} seeds"
    found = [f"{len(groups)} settings were compared, each with {count}."]
    if len(blocks(summary)) == 1:
        found += [_best(summary, collection.axes, name) for name in ("accuracy", "ece")]
        start = zero_shot_row(collection.runs[0], collection.source)
        if {"accuracy", "confidence", "ece"} <= start.keys():
            found.append(
                f"Zero-shot CLIP has an accuracy of {_percent(start['accuracy'])} and an ECE of "
                f"{_percent(start['ece'])}; it is {_leaning(start)}."
            )
    if len(tests):
        found.append(_differing(tests))
    return [sentence for sentence in found if sentence]


def _best(summary: pd.DataFrame, axes: Sequence[str], name: str) -> str:
    rows = summary[ranks(summary, _METRICS[name]) == 1] if name in summary else summary[:0]
    if not len(rows):
        return ""
    row = rows.iloc[0]
    labels = ", ".join(f"{axis}={row[axis]}" for axis in axes if row[axis])
    labels = ZERO_SHOT if row[naming_axis(axes)] == ZERO_SHOT else labels
    sd = row[f"{name}_sd"]
    spread = f" ± {100 * sd:.1f}" if sd == sd else ""
    title = "highest accuracy" if name == "accuracy" else "lowest ECE"
    return f"The {title}, {100 * row[name]:.1f}{spread} %, has {labels}."


def _differing(tests: pd.DataFrame) -> str:
    """Say how many rows are better or worse calibrated than the baseline by more than chance."""
    clear = tests[tests["ece_p_images"] < SIGNIFICANT]
    better, worse = (clear["ece_difference"] < 0).sum(), (clear["ece_difference"] > 0).sum()
    names = sorted(set(tests["baseline"]))
    verb = "is" if better == 1 else "are"
    return (
        f"Of {len(tests)} settings compared with {' and '.join(names)}, {better} {verb} better "
        f"calibrated and {worse} worse by more than chance (p < {SIGNIFICANT} over the test "
        "images, corrected for their number)."
    )


def _significance(run: FinishedRun, calibrator: str, source: str) -> str:
    try:
        scores = saved_scores(run.folder, calibrator, source)
    except UserError:
        return "Whether this is more than chance cannot be said: the logits are not there."
    bins = int(run.config.get("num-bins", 15))
    test = compare_on_same_examples(scores.final, scores.zero_shot, num_bins=bins)
    p = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
    verdict = {
        "first": "It is better calibrated, by more than chance",
        "second": "It is worse calibrated, by more than chance",
        "undecided": "The change in calibration may be chance",
    }[test.better]
    return f"{verdict} ({p}, on the same {len(scores.labels):,} images)."


def _leaning(row: Mapping[str, float]) -> str:
    """Return by how many points a model is overconfident or underconfident."""
    surplus = row["confidence"] - row["accuracy"]
    if abs(surplus) < _NEARLY:
        return "neither over- nor underconfident on average"
    word = "overconfident" if surplus > 0 else "underconfident"
    return f"{word} by {100 * abs(surplus):.1f} points"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
