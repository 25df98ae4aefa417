"""Reliability diagrams of a comparison: one panel for each row, from the saved logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from fl2ora.calibration.predictions import Scores
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summation import sums_of_scores
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.collected_runs import FinishedRun
from fl2ora.reporting.comparison import ZERO_SHOT, final_row
from fl2ora.reporting.comparison_figures import Draw
from fl2ora.reporting.comparison_values import Groups
from fl2ora.reporting.reliability_panels import draw_reliability, panels_size
from fl2ora.reporting.saved_scores import saved_scores

ROWS_SHOWN = 11  # and zero-shot beside them: three lines of four


def reliability_rows(groups: Groups, source: str) -> tuple[Draw, tuple[float, float]] | None:
    """Return how to draw the reliability of zero-shot CLIP and of each row, side by side.

    A panel is of one run, the first of its row, after its calibrator where it has one: images that
    are counted once for every seed would have intervals that are too short. Of more than
    ``ROWS_SHOWN`` rows, those with the lowest ECE of each choice on the first axis are shown.

    Args:
        groups: rows that were measured on the same images.
        source: of the central part.

    Returns:
        None where no run has saved logits of it.
    """
    panels: dict[str, CalibrationStats] = {}
    for labels, runs in shown_rows(groups, source).items():
        run = runs[0]
        try:
            scores = saved_scores(run.folder, str(run.config.get("calibrator", "none")), source)
        except UserError:
            continue
        spec = StatsSpec(num_bins=int(run.config.get("num-bins", 15)))
        if not panels:
            panels[ZERO_SHOT] = stats_of_scores(scores.zero_shot, spec)
        panels[", ".join(filter(None, labels))] = stats_of_scores(scores.final, spec)
    if not panels:
        return None

    def draw(figure: Figure) -> None:
        draw_reliability(figure, panels)

    return draw, panels_size(len(panels))


def shown_rows(groups: Groups, source: str) -> dict[tuple[str, ...], Sequence[FinishedRun]]:
    """Return the rows that have a panel, in their order."""
    if len(groups) <= ROWS_SHOWN:
        return dict(groups)
    best: dict[str, tuple[float, tuple[str, ...]]] = {}
    for labels, runs in groups.items():
        values = [final_row(run, source).get("ece", math.inf) for run in runs]
        found = math.fsum(values) / len(values), labels
        best[labels[0]] = min(best.get(labels[0], found), found, key=lambda each: each[0])
    chosen = {labels for _, labels in list(best.values())[:ROWS_SHOWN]}
    return {labels: runs for labels, runs in groups.items() if labels in chosen}


def stats_of_scores(scores: Scores, spec: StatsSpec) -> CalibrationStats:
    """Return the sums of scores, for a spec without ``classwise``."""
    return CalibrationStats(spec, **sums_of_scores(scores, spec))
