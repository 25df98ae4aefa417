"""The figures of a report, of a run or of a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fl2ora.reporting.collected_runs import Collection
from fl2ora.reporting.comparison_figures import Draw, curves, heat_map, scatter
from fl2ora.reporting.comparison_values import ECE, TRAFFIC, Groups, has_traffic
from fl2ora.reporting.reliability_rows import ROWS_SHOWN, reliability_rows
from fl2ora.reporting.report_sets import clients_coverage, sets_of
from fl2ora.reporting.run_panels import reliability

_BARS = (
    "Height of a bar: accuracy of the images in a bin of confidence; hatched: the gap to their "
    "mean confidence; whiskers: 95 % intervals; below: images per bin."
)
_ROWS = f"The first run of each row, after its calibrator if it has one. {_BARS}"
_BEST = f" Of each choice in the first column, the row with the lowest ECE, {ROWS_SHOWN} at most."
_SCATTER = (
    "Each point is one row of the table. Down and right is better. Bars: 95 % intervals, over "
    "seeds (Student's t) where there are several, else over images (bootstrap)."
)
_BYTES = (
    "Each point is one row of the table; down and left is better. All rounds of training, without "
    "what Flower adds to the tensors. Zero-shot costs nothing."
)
_CURVES = (
    "Mean and, as a band, standard deviation over seeds, before any calibrator; with more than "
    "eight rows in the table, over all runs that share the first column."
)
_GRID = "Means over seeds and over all settings that are not on the two axes."
_SETS = (
    "Share of test images whose set holds the label, with 95 % intervals (Clopper and Pearson): of "
    "all clients together, and of each. Dashed: what is wanted, of all together."
)


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report.

    Attributes:
        name: of its files.
        title: above it.
        caption: below it.
        draw: how.
        size: width and height in inches.
    """

    name: str
    title: str
    caption: str
    draw: Draw
    size: tuple[float, float]


def figures_of(collection: Collection) -> list[ReportFigure]:
    """Return the figures of every set of images, in order."""
    if collection.single:
        return list(_of_run(collection))
    found: list[ReportFigure] = []
    sets = list(dict.fromkeys(run.images for run in collection.runs))
    for number, images in enumerate(sets):
        groups = {
            labels: runs
            for labels, all_runs in collection.groups().items()
            if (runs := [run for run in all_runs if run.images == images])
        }
        ending = f"-{number + 1}" if len(sets) > 1 else ""
        where = f": {images[0]}, {images[1]}" if len(sets) > 1 else ""
        for name, title, caption, (draw, size) in _of_groups(collection, groups):
            found.append(ReportFigure(name + ending, title + where, caption, draw, size))
    return found


def _of_run(collection: Collection) -> Iterator[ReportFigure]:
    run, source = collection.runs[0], collection.source
    yield ReportFigure("reliability", "Confidence and accuracy", _BARS, *reliability(run, source))
    drawing = curves(collection.groups(), collection.axes, source)
    yield ReportFigure("curves", "Over the rounds", _CURVES, *drawing)
    for number, sets in enumerate(each for each in sets_of(run.folder) if each.clients):
        name = f"sets-{number + 1}" if number else "sets"
        title = f"Coverage of the clients' sets by {sets.spec}"
        yield ReportFigure(name, title, _SETS, *clients_coverage(sets))


def _of_groups(
    collection: Collection, groups: Groups
) -> Iterator[tuple[str, str, str, tuple[Draw, tuple[float, float]]]]:
    """Yield name, title and caption of each figure of a comparison, and how to draw it."""
    axes, source = collection.axes, collection.source
    drawing = scatter(groups, axes, source)
    yield "accuracy-ece", "Accuracy against ECE", _SCATTER, drawing
    if (rows := reliability_rows(groups, source)) is not None:
        caption = _ROWS + (_BEST if len(groups) > ROWS_SHOWN else "")
        yield "reliability", "Confidence and accuracy", caption, rows
    yield "curves", "Over the rounds", _CURVES, curves(groups, axes, source)
    if has_traffic(groups):
        yield "bytes-ece", "Bytes against ECE", _BYTES, scatter(groups, axes, source, TRAFFIC, ECE)
    if (grid := heat_map(groups, axes, source)) is not None:
        yield "grid", "The grid", _GRID, grid
