"""The metrics of a run as tables: CSVs of everything, and the few columns people compare."""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fl2ora.calibration as calibration  # its names are loaded when used, and torch with them
from fl2ora.experiment.errors import UserError, shown
from fl2ora.reporting.events import METRICS_FILE, read_whole_lines
from fl2ora.reporting.sources import CALIBRATED
from fl2ora.reporting.whole_files import whole_file

if TYPE_CHECKING:
    import pandas as pd

    from fl2ora.calibration import CalibrationStats, Metric

CSV_FILE = "metrics.csv"
CLASSWISE_FILE = "classwise.csv"
_LARGEST = sys.float_info.max
_MOST_ROUNDS = 1_000_000
_WANTED = {"round": f"a whole number from 0 to {_MOST_ROUNDS}", "source": "a text"}


def metrics_table(folder: Path) -> pd.DataFrame:
    """Return the rows of ``metrics.jsonl``: ``round``, ``source`` and the metrics by name.

    What a row lacks and what JSON holds as null is NaN. Of a round that was measured again, on all
    images when it turned out to be the last, those rows alone are returned.

    Raises:
        UserError: the file is damaged.
    """
    import pandas as pd  # not until it is needed: other commands are to answer at once

    path = folder / METRICS_FILE
    rows = read_whole_lines(path)
    for number, row in enumerate(rows, start=1):
        for name, value in row.items():
            if not _fits(name, value):
                wanted = _WANTED.get(name, "a finite number or null")
                raise UserError(
                    f"{path}: line {number}: {shown(name)}: expected {wanted}, found {shown(value)}"
                )
        if "round" not in row or "source" not in row:
            raise UserError(f"{path}: line {number}: expected a round and a source")
    table = pd.DataFrame(rows, columns=None if rows else ["round", "source"])
    table = table.drop_duplicates(["round", "source"], keep="last", ignore_index=True)
    numbers = table.columns.drop("source")
    return table.assign(**{name: pd.to_numeric(table[name]) for name in numbers})


def _fits(name: str, value: object) -> bool:
    """Return whether a value may stand under a name in ``metrics.jsonl``."""
    if name == "source":
        return isinstance(value, str)
    if name == "round":
        return type(value) is int and 0 <= value <= _MOST_ROUNDS
    return value is None or (isinstance(value, int | float) and not abs(value) > _LARGEST)


def write_csv(folder: Path) -> Path:
    """Write ``metrics.csv`` beside ``metrics.jsonl``."""
    path = folder / CSV_FILE
    with whole_file(path) as part:
        metrics_table(folder).to_csv(part, index=False)
    return path


def write_classwise(
    folder: Path,
    class_names: Mapping[str, Sequence[str]],
    measured: Mapping[tuple[int, str], CalibrationStats],
) -> Path | None:
    """Write ``classwise.csv``: a row for every class of every source and round.

    Columns are ``round``, ``source``, ``class`` (its index), ``name``, ``examples`` (with that
    label), ``predicted`` (as that class), and the metrics that have a value for each class.

    Args:
        folder: the run directory.
        class_names: ``(K,)`` of each source in the order of the labels.
        measured: sums by round and source.

    Returns:
        The path; None, and no file, where the sums were not kept by class.
    """
    metrics = [metric for metric in calibration.METRICS if metric.by_class is not None]
    rows = []
    for (server_round, source), stats in measured.items():
        if not stats.spec.classwise:
            continue
        columns = {
            "examples": stats.class_label.sum(axis=1).astype(int),
            "predicted": stats.top_count.sum(axis=1).astype(int),
            **{m.name: m.by_class(stats) for m in metrics if m.by_class is not None},
        }
        rows += [
            {"round": server_round, "source": source, "class": index, "name": name}
            | {column: values[index] for column, values in columns.items()}
            for index, name in enumerate(class_names[source])
        ]
    if not rows:
        return None
    import pandas as pd

    path = folder / CLASSWISE_FILE
    with whole_file(path) as part:
        pd.DataFrame(rows).to_csv(part, index=False)
    return path


def shown_metrics(table: pd.DataFrame) -> tuple[Metric, ...]:
    """Return the metrics of the table that people are shown, in order."""
    return tuple(m for m in calibration.METRICS if m.shown and m.name in table.columns)


def shown_rows(table: pd.DataFrame, source: str) -> list[list[str]]:
    """Return one row of text per evaluated round of ``source``: round, then ``shown_metrics``.

    A round that was measured with fewer images than others says with how many.
    """
    of_source = table[table["source"] == source]
    if of_source.empty:
        return []
    rows = of_source.sort_values("round", kind="stable").to_dict("records")
    metrics, most = shown_metrics(table), max((_images(row) for row in rows), default=0)
    return [[_name_of_round(row, most)] + [cell(metric, row) for metric in metrics] for row in rows]


def _name_of_round(row: Mapping[Hashable, Any], most: float) -> str:
    name = "zero-shot" if row["round"] == 0 else str(int(row["round"]))
    found = _images(row)
    return f"{name} ({found:,.0f} images)" if 0 < found < most else name


def _images(row: Mapping[Hashable, Any]) -> float:
    found = float(row.get("num_examples", 0))
    return 0 if math.isnan(found) else found


def rows_with_calibrated(table: pd.DataFrame, source: str) -> list[list[str]]:
    """Return ``shown_rows``, and below them the row of the same images after the calibrator."""
    calibrated = [["calibrated", *row[1:]] for row in shown_rows(table, source + CALIBRATED)]
    return shown_rows(table, source) + calibrated


def last_rows(table: pd.DataFrame, sources: Sequence[str]) -> list[list[str]]:
    """Return one row for each source: its name, then ``shown_metrics`` of its last round.

    Below it is that of the calibrated source, where there is one.
    """
    names = [name for source in sources for name in (source, source + CALIBRATED)]
    rows = {name: shown_rows(table, name) for name in names}
    return [[name, *found[-1][1:]] for name, found in rows.items() if found]


def cell(metric: Metric, row: Mapping[Hashable, Any]) -> str:
    """Return a metric's value, with what stands beside it and its 95 % interval if it has one."""
    text = show(metric, float(row[metric.name]))
    for other in calibration.METRICS:
        count = float(row.get(other.name, math.nan)) if other.beside == metric.name else math.nan
        if count == count:
            text += f" ({count:,.1f})".replace(".0)", ")")
    low, high = (float(row.get(f"{metric.name}_{end}", math.nan)) for end in ("low", "high"))
    if not metric.interval_shown or low != low:
        return text
    return f"{text} [{100 * low:.2f}, {100 * high:.2f}]"


def show(metric: Metric, value: float) -> str:
    """Return a value as people read it: a fraction in percent with its sign, or a plain number."""
    if value != value:
        return "-"
    return f"{100 * value:.2f} %" if metric.unit == "fraction" else f"{value:.4f}"
