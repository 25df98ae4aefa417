"""Tables of a report beside the comparison: the rounds of one run, and what a sweep chose."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fl2ora.reporting.collected_runs import FinishedRun
from fl2ora.reporting.comparison_text import Cell, TextTable
from fl2ora.reporting.sources import title_of
from fl2ora.reporting.sweep_folder import ChoiceRecord
from fl2ora.reporting.tables import rows_with_calibrated, shown_metrics


def rounds_table(run: FinishedRun, source: str) -> TextTable:
    """Return a row for each measured round of one run, and one after its calibrator."""
    metrics = shown_metrics(run.metrics)
    rows = [
        [Cell(row[0]), *(Cell(text, value=_leading_number(text)) for text in row[1:])]
        for row in rows_with_calibrated(run.metrics, source)
    ]
    head = ["round", *(metric.title for metric in metrics)]
    return TextTable(f"{title_of(source)} after each round", head, rows, 1)


def choices_table(choices: Sequence[ChoiceRecord]) -> TextTable:
    """Return a row for each group of cells: each candidate's metric, the best marked."""
    axes = list(choices[0].labels)
    most = max(len(choice.curve) for choice in choices)
    rows = []
    for choice in choices:
        cells = [Cell(choice.labels[axis]) for axis in axes]
        for point in choice.curve:
            best = point["value"] == choice.chosen
            mean = math.nan if point["mean"] is None else float(point["mean"])
            shown = "failed" if mean != mean else f"{mean:.4f}"
            if point["sd"] is not None:
                shown += f" ± {point['sd']:.4f}"
            cells.append(Cell(f"{point['value']}: {shown}", int(best), mean))
        cells += [Cell("-")] * (most - len(choice.curve))
        cells.append(Cell("yes" if choice.at_edge else "no"))
        rows.append(cells)
    first = choices[0]
    head = [*axes, *(f"candidate {number + 1}" for number in range(most)), "at an end of the list"]
    title = f"Choice of {first.key} by {first.metric} of clients-validation"
    return TextTable(title, head, rows, len(axes))


def _leading_number(text: str) -> float:
    try:
        return float(text.split()[0])
    except (ValueError, IndexError):
        return math.nan
