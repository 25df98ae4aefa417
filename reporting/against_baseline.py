"""Whether differences from a stated baseline are chance: tests over images and over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.comparison import compare_on_same_examples
from fl2ora.calibration.paired_tests import holm, merged, seeds_test, sign_flip_test
from fl2ora.calibration.predictions import Scores
from fl2ora.experiment.errors import UserError, listed, nearest, shown
from fl2ora.reporting.collected_runs import Collection, FinishedRun
from fl2ora.reporting.comparison import ZERO_SHOT, final_row, zero_shot_row
from fl2ora.reporting.saved_scores import SavedScores, saved_scores

TESTED = ("accuracy", "ece", "nll")
"""Metrics with tests. Over images, ECE's is that of ``fl2ora.calibration.comparison``."""

_OF_IMAGES: dict[str, Callable[[Scores], Floats]] = {
    "accuracy": lambda scores: scores.correct,
    "nll": lambda scores: scores.nll,
}
Group = tuple[str, ...]


def baseline_from(text: str, collection: Collection) -> dict[str, str]:
    """Return the labels that ``zero-shot`` or ``axis=label, axis=label`` names; {} is zero-shot.

    Each row is compared with the row that has these labels and otherwise its own. A name means a
    label with any arguments, if there is only one such.

    Raises:
        UserError: no such axis or label, or several.
    """
    if text.strip() == ZERO_SHOT:
        return {}
    found: dict[str, str] = {}
    for part in _split(text):
        axis, equals, label = (word.strip() for word in part.partition("="))
        if not equals or axis not in collection.axes:
            raise UserError(
                f"--baseline: expected {ZERO_SHOT} or axis=label with one of "
                f"{listed(collection.axes)}, found {shown(part)}{nearest(axis, collection.axes)}"
            )
        valid = list(dict.fromkeys(run.labels[axis] for run in collection.runs))
        meant = [v for v in valid if v == label] or [
            v for v in valid if v.partition("(")[0] == label
        ]
        if len(meant) != 1:
            raise UserError(
                f"--baseline: {axis}: expected one of {', '.join(valid)}, "
                f"found {shown(label)}{nearest(label, valid)}"
            )
        found[axis] = meant[0]
    return found


def against_baseline(
    collection: Collection, baseline: Mapping[str, str], source: str, num_bins: int = 15
) -> tuple[pd.DataFrame, list[str]]:
    """Compare every group of runs with its baseline, on one source.

    Columns are the axes and ``baseline``, what the row is compared with; ``seeds``, that both have;
    for each of ``TESTED`` ``<name>_difference`` (row minus baseline, mean over seeds),
    ``<name>_p_images`` and ``<name>_p_seeds``, each corrected by Holm for its column's number of
    rows. Over images, the p-values of the seeds are merged by their doubled median.

    Args:
        collection: finished runs.
        baseline: of ``baseline_from``.
        source: what is compared; over images, only central parts can be.
        num_bins: of the test of calibration.

    Returns:
        The table, without rows that are their own baseline; and notes for people.
    """
    groups = collection.groups()
    cache: dict[Path, SavedScores | str] = {}
    notes: list[str] = []
    rows = []
    for labels, runs in groups.items():
        pairs, name = _pairs(collection.axes, labels, runs, groups, baseline)
        if name is None:
            continue
        row: dict[str, object] = dict(zip(collection.axes, labels, strict=True))
        row |= {"baseline": name, "seeds": len(pairs)}
        row |= _over_seeds(pairs, source)
        row |= _over_images(pairs, source, num_bins, cache, notes)
        rows.append(row)
    table = pd.DataFrame(rows)
    for column in [f"{m}_p_{kind}" for m in TESTED for kind in ("images", "seeds")]:
        if column in table:
            table[column] = holm(table[column].tolist())
    return table, list(dict.fromkeys(notes))


Pair = tuple[FinishedRun, FinishedRun | None]  # None: zero-shot of the same run


def _pairs(
    axes: Sequence[str],
    labels: Group,
    runs: Sequence[FinishedRun],
    groups: Mapping[Group, Sequence[FinishedRun]],
    baseline: Mapping[str, str],
) -> tuple[list[Pair], str | None]:
    """Return the runs of a group with their counterparts of the same seed, and what those are."""
    if not baseline:
        return [(run, None) for run in runs], ZERO_SHOT
    partner = tuple(baseline.get(axis, label) for axis, label in zip(axes, labels, strict=True))
    if partner == labels or partner not in groups:
        return [], None
    by_seed = {run.seed: run for run in groups[partner] if run.images == runs[0].images}
    pairs: list[Pair] = [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]
    if not pairs:
        return [], None
    return pairs, ", ".join(f"{axis}={label}" for axis, label in baseline.items())


def _over_seeds(pairs: Sequence[Pair], source: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in TESTED:
        differences = []
        for run, other in pairs:
            base = zero_shot_row(run, source) if other is None else final_row(other, source)
            mine = final_row(run, source)
            differences.append(mine.get(name, math.nan) - base.get(name, math.nan))
        found[f"{name}_difference"] = float(np.mean(differences))
        found[f"{name}_p_seeds"] = seeds_test(differences)
    return found


def _over_images(
    pairs: Sequence[Pair],
    source: str,
    num_bins: int,
    cache: dict[Path, SavedScores | str],
    notes: list[str],
) -> dict[str, object]:
    """Return the p-values over images, NaN where the logits of a run cannot be had."""
    scores = [_scores_of(pair, source, cache) for pair in pairs]
    if bad := [pair for pair in scores if isinstance(pair, str)]:
        notes += bad
        return {f"{name}_p_images": math.nan for name in TESTED}
    good = [pair for pair in scores if not isinstance(pair, str)]
    found: dict[str, object] = {}
    for name, of in _OF_IMAGES.items():
        with np.errstate(invalid="ignore"):  # an image's NLL may be infinite under both
            differences = np.stack([of(mine) - of(base) for mine, base in good])
        found[f"{name}_p_images"] = merged(sign_flip_test(differences).tolist())
    found["ece_p_images"] = merged(
        [compare_on_same_examples(m, b, num_bins=num_bins).p_value for m, b in good]
    )
    return found


def _scores_of(
    pair: Pair, source: str, cache: dict[Path, SavedScores | str]
) -> tuple[Scores, Scores] | str:
    """Return the scores of a pair on the same images, or why there are none."""
    run, other = pair
    mine = _load(run, source, cache)
    theirs = mine if other is None else _load(other, source, cache)
    if isinstance(mine, str) or isinstance(theirs, str):
        return mine if isinstance(mine, str) else str(theirs)
    if not torch.equal(mine.labels, theirs.labels):
        return f"{run.folder.name}: its test images are not those of its baseline"
    return mine.final, mine.zero_shot if other is None else theirs.final


def _load(run: FinishedRun, source: str, cache: dict[Path, SavedScores | str]) -> SavedScores | str:
    if run.folder not in cache:
        try:
            calibrator = str(run.config.get("calibrator", "none"))
            cache[run.folder] = saved_scores(run.folder, calibrator, source)
        except UserError as error:
            cache[run.folder] = f"no test over images: {error}"
    return cache[run.folder]


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]
