"""Coverage and size of sets of classes in a report: of a run, and of a comparison's rows."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fl2ora.calibration.calibrators._sets import SetCalibrator
from fl2ora.calibration.conformal.set_sums import SetSums
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.collected_runs import Collection, FinishedRun
from fl2ora.reporting.comparison import final_row
from fl2ora.reporting.comparison_figures import Draw
from fl2ora.reporting.comparison_text import Cell, TextTable
from fl2ora.reporting.plot_style import BLUE, GREY, PAGE, VERMILLION
from fl2ora.reporting.saved_calibrators import fitted_specs, read_fitted
from fl2ora.reporting.set_tables import SETS_FILE
from fl2ora.reporting.sources import CLIENTS_TEST, SERVER_TEST, title_of

_NAMED = 30  # clients whose names fit below a figure
_ROUNDING = 1e-9
_VALUES = ("coverage", "coverage_low", "coverage_high", "set_size")


@dataclass(frozen=True)
class RunSets:
    """The sets of one of a run's calibrators.

    Attributes:
        spec: of the calibrator.
        wanted: share of images whose set is to hold the label; NaN where it is not known.
        rows: of ``sets.csv``, by central source or client key; those of the clients together under
            ``clients-test``.
    """

    spec: str
    wanted: float
    rows: Mapping[str, Mapping[str, float]]

    @property
    def clients(self) -> dict[str, Mapping[str, float]]:
        """The rows of the clients by their keys."""
        return {
            name: row
            for name, row in self.rows.items()
            if name != CLIENTS_TEST and not name.startswith(SERVER_TEST)
        }


def sets_of(folder: Path) -> list[RunSets]:
    """Return the sets of each calibrator in a run's folder that answers with such."""
    found = []
    for spec, path in fitted_specs(folder).items():
        if (path / SETS_FILE).is_file():
            found.append(RunSets(spec, _wanted(path), _rows(path / SETS_FILE)))
    return found


def run_table(sets: RunSets) -> TextTable:
    """Return a row for each central part, for all clients together, and for each client."""
    rows = []
    for name, row in sets.rows.items():
        title = f"client {name}" if name in sets.clients else title_of(name)
        interval = f"{100 * row['coverage_low']:.1f} to {100 * row['coverage_high']:.1f}"
        rows.append(
            [
                Cell(title),
                Cell(f"{row['images']:,.0f}", value=row["images"]),
                Cell(f"{100 * row['coverage']:.1f}", value=row["coverage"]),
                Cell(interval, value=row["coverage_low"]),
                Cell(f"{row['set_size']:.2f}", value=row["set_size"]),
            ]
        )
    wanted = f", {100 * sets.wanted:g} % wanted" if sets.wanted == sets.wanted else ""
    head = ["sets on", "images", "coverage (%)", "95 % interval", "mean set size"]
    return TextTable(
        f"Sets of classes by {sets.spec}: how many hold the label{wanted}", head, rows, 1
    )


def rows_table(collection: Collection, source: str) -> TextTable | None:
    """Return coverage and size of each row of a comparison, mean ± sd; None where none has sets."""
    columns = (
        ("coverage (%)", source, "coverage", 100),
        ("mean set size", source, "set_size", 1),
        ("coverage, all clients (%)", CLIENTS_TEST, "coverage", 100),
        ("coverage, lowest client (%)", f"{CLIENTS_TEST}-worst", "coverage", 100),
    )
    rows = []
    for labels, runs in collection.groups().items():
        if not all("coverage" in final_row(run, source) for run in runs):
            continue
        cells = [*map(Cell, labels), Cell(str(len(runs)), value=float(len(runs)))]
        cells += [_spread(runs, where, name, scale) for _, where, name, scale in columns]
        rows.append(cells)
    if not rows:
        return None
    head = [*collection.axes, "seeds", *(title for title, *_ in columns)]
    return TextTable("Sets of classes: how many hold the label", head, rows, len(collection.axes))


def clients_coverage(sets: RunSets) -> tuple[Draw, tuple[float, float]]:
    """Return how to draw each client's coverage with its interval, lowest first."""
    order = sorted(sets.clients, key=lambda name: sets.clients[name]["coverage"])
    names = [CLIENTS_TEST, *order]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, name in enumerate(names):
            low, value, high = (
                100 * sets.rows[name][key] for key in ("coverage_low", "coverage", "coverage_high")
            )
            colour, marker = (VERMILLION, "D") if place == 0 else (BLUE, "o")
            axes.errorbar(
                place, value, yerr=[[value - low], [high - value]], fmt=marker, color=colour,
                markersize=4, elinewidth=0.8,
            )  # fmt: skip
        if sets.wanted == sets.wanted:
            axes.axhline(100 * sets.wanted, color=GREY, linestyle="--", linewidth=0.8)
        axes.set_ylabel("coverage (%)")
        axes.grid(axis="y")
        if len(order) <= _NAMED:
            labels = ["all", *(name if len(name) <= 12 else f"{name[:11]}…" for name in order)]
            axes.set_xticks(range(len(names)), labels, rotation=0 if len(names) < 15 else 90)
            axes.set_xlabel("client")
        else:
            axes.set_xticks([0], ["all"])
            axes.set_xlabel(f"{len(order)} clients, lowest coverage first")

    return draw, (PAGE * 0.75, 2.6)


def _wanted(folder: Path) -> float:
    try:
        calibrator = read_fitted(folder).calibrator
    except UserError:  # of a plug-in that is not ours to run
        return math.nan
    return calibrator.coverage if isinstance(calibrator, SetCalibrator) else math.nan


def _rows(path: Path) -> dict[str, Mapping[str, float]]:
    """Return the rows of a ``sets.csv``, the clients' sums added.

    Raises:
        UserError: the file is damaged.
    """
    try:
        table = pd.read_csv(path, dtype={"of": str}, keep_default_na=False).set_index("of")
        table = table[["images", *_VALUES]].astype(float)
        if not all(map(_can_be, table.to_dict("records"))):
            raise ValueError("numbers that no sets have")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: expected coverage and size of sets: {error}") from None
    rows: dict[str, Mapping[str, float]] = {
        str(name): {str(key): float(value) for key, value in row.items()}
        for name, row in table.to_dict("index").items()
    }
    central = {name: row for name, row in rows.items() if name.startswith(SERVER_TEST)}
    clients = {name: row for name, row in rows.items() if name not in central}
    if clients:
        pooled = sum((_sums(row) for row in clients.values()), start=SetSums())
        central[CLIENTS_TEST] = {"images": float(pooled.count), **pooled.metrics()}
    return {**central, **clients}


def _can_be(row: Mapping[Hashable, float]) -> bool:
    value, low, high = (row[name] for name in _VALUES[:3])
    # Bounds are printed as they were computed: of all images covered, 1 - 1e-17 may be above 1.
    within = 0 <= low <= value + _ROUNDING and value <= high + _ROUNDING <= 1 + 2 * _ROUNDING
    return within and 1 <= row["images"] < math.inf and 0 <= row["set_size"] < math.inf


def _sums(row: Mapping[str, float]) -> SetSums:
    images = round(row["images"])
    return SetSums(images, round(images * row["coverage"]), round(images * row["set_size"]))


def _spread(runs: Sequence[FinishedRun], source: str, name: str, scale: float) -> Cell:
    values = np.array([scale * final_row(run, source).get(name, math.nan) for run in runs])
    mean = float(values.mean())
    if mean != mean:
        return Cell("-")
    text = f"{mean:.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")
    return Cell(text, value=mean)
