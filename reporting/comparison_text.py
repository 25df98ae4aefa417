"""Tables of a comparison as people read them, in each of the formats they paste them into."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import fl2ora.calibration as calibration  # its names are loaded when used, and torch with them
from fl2ora.calibration.metrics.metric import Metric
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.against_baseline import TESTED
from fl2ora.reporting.comparison import blocks, ranks
from fl2ora.reporting.comparison_costs import Target
from fl2ora.reporting.whole_files import whole_file, write_whole

SUFFIXES = {"markdown": ".md", "latex": ".tex", "csv": ".csv", "parquet": ".parquet"}
SIGNIFICANT = 0.05
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "−": "$-$", "<": r"$<$",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what stands in it.
        rank: 1 for the best of its column, 2 for the second best, else 0.
        value: for sorting; NaN where there is none.
    """

    text: str
    rank: int = 0
    value: float = math.nan


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        title: above it.
        head: of each column.
        rows: of cells, as long as ``head``.
        labels: how many columns from the left name the row.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    labels: int


def summary_table(
    table: pd.DataFrame, axes: Sequence[str], metrics: Sequence[Metric], target: Target | None
) -> TextTable:
    """Return the summary as text: mean ± sd over seeds, MCE with its number of images."""
    images = ["dataset", "protocol"] if len(blocks(table)) > 1 else []
    images = [name for name in images if name not in axes and table[name].nunique() > 1]
    shown = [m for m in metrics if not m.beside]
    head = [*axes, *images, "seeds", *(_headed(metric) for metric in shown)]
    placed = {metric.name: ranks(table, metric) for metric in shown}
    rows = []
    for place, (_, row) in enumerate(table.iterrows()):
        cells = [Cell(str(row[name])) for name in (*axes, *images)]
        cells.append(Cell(str(row["seeds"]), value=float(row["seeds"])))
        for metric in shown:
            rank = placed[metric.name].iloc[place]
            text = _spread(metric, row, metrics)
            cells.append(Cell(text, int(rank) if rank == rank else 0, float(row[metric.name])))
        rows.append([*cells, *(_target_cells(row) if target is not None else [])])
    head += [f"runs to {target}", "rounds", "MB"] if target is not None else []
    return TextTable("Mean ± standard deviation over seeds", head, rows, len(axes) + len(images))


def baseline_table(table: pd.DataFrame, axes: Sequence[str]) -> TextTable:
    """Return the tests as text."""
    titles = {metric.name: metric for metric in calibration.METRICS}
    head = [*axes, "baseline", "seeds"]
    for name in TESTED:
        head += [f"Δ {_headed(titles[name])}", "p, images", "p, seeds"]
    rows = []
    for _, row in table.iterrows():
        cells = [Cell(str(row[name])) for name in (*axes, "baseline")]
        cells.append(Cell(str(row["seeds"]), value=float(row["seeds"])))
        for name in TESTED:
            difference = float(row[f"{name}_difference"])
            number = _number(titles[name], difference)
            text = number if number == "-" or number.startswith("-") else f"+{number}"
            cells.append(Cell(text.replace("-", "−") if text != "-" else text, value=difference))
            for kind in ("images", "seeds"):
                p = float(row[f"{name}_p_{kind}"])
                cells.append(Cell(_p(p), int(p < SIGNIFICANT), p))
        rows.append(cells)
    return TextTable(
        "Against the baseline; p-values corrected by Holm, those below 0.05 marked",
        head, rows, len(axes) + 1,
    )  # fmt: skip


def markdown(table: TextTable) -> str:
    """Return a Markdown table: the best bold, the second best in italics."""
    marks = {0: "{}", 1: "**{}**", 2: "*{}*"}

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def cell(found: Cell) -> str:
        text = found.text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*")
        return marks[found.rank].format(text.replace("_", "\\_").replace("<", "&lt;"))

    ruler = ["---" if place < table.labels else "---:" for place in range(len(table.head))]
    lines = [line([cell(Cell(name)) for name in table.head]), line(ruler)]
    lines += [line([cell(found) for found in row]) for row in table.rows]
    return f"**{table.title}**\n\n" + "\n".join(lines) + "\n"


def latex(table: TextTable) -> str:
    """Return a LaTeX table for booktabs: the best bold, the second best underlined."""
    marks = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}

    def escaped(text: str) -> str:
        return "".join(_LATEX.get(sign, sign) for sign in text).replace("Δ", r"$\Delta$")

    frame = pd.DataFrame(
        [[marks[cell.rank].format(escaped(cell.text)) for cell in row] for row in table.rows],
        columns=pd.Index([escaped(name) for name in table.head]),
    )
    columns = "l" * table.labels + "r" * (len(table.head) - table.labels)
    return f"% {table.title}\n{frame.to_latex(index=False, escape=False, column_format=columns)}"


def write(
    path: Path, kind: str, tables: Sequence[TextTable], numbers: Mapping[str, pd.DataFrame]
) -> list[Path]:
    """Write a comparison as a file.

    Text formats hold all tables in one file. CSV and Parquet hold numbers, fractions not percent,
    one table a file: ``path``, and those after the first as ``<stem>-<name><suffix>``.

    Args:
        path: of the file.
        kind: of ``SUFFIXES``.
        tables: as text.
        numbers: as numbers, by name.
    """
    if kind in ("markdown", "latex"):
        text: Callable[[TextTable], str] = markdown if kind == "markdown" else latex
        write_whole(path, "\n".join(text(table) for table in tables))
        return [path]
    written = []
    for place, (name, frame) in enumerate(numbers.items()):
        target = path if place == 0 else path.with_name(f"{path.stem}-{name}{path.suffix}")
        with whole_file(target) as part:
            if kind == "csv":
                frame.to_csv(part, index=False)
            elif has_parquet():
                frame.to_parquet(part, index=False)
            else:
                raise UserError("Parquet needs pyarrow: pip install 'fl2ora[parquet]'")
        written.append(target)
    return written


def has_parquet() -> bool:
    """Return whether tables can be written as Parquet here."""
    return importlib.util.find_spec("pyarrow") is not None


def _headed(metric: Metric) -> str:
    title = metric.title.replace(" (images)", "")
    return f"{title} (%)" if metric.unit == "fraction" else title


def _number(metric: Metric, value: float) -> str:
    if value != value:
        return "-"
    return f"{100 * value:.2f}" if metric.unit == "fraction" else f"{value:.4f}"


def _spread(metric: Metric, row: pd.Series[float], metrics: Sequence[Metric]) -> str:
    """Return mean ± sd, and in brackets what stands beside a metric, as MCE's number of images."""
    text = _number(metric, float(row[metric.name]))
    sd = float(row[f"{metric.name}_sd"])
    if sd == sd:
        text += f" ± {_number(metric, sd)}"
    for other in metrics:
        if other.beside == metric.name and (count := float(row[other.name])) == count:
            text += f" ({count:,.1f})".replace(".0)", ")")
    return text


def _target_cells(row: pd.Series[float]) -> list[Cell]:
    reached, rounds, size = (float(row[f"target_{n}"]) for n in ("reached", "rounds", "bytes"))
    if reached != reached:  # zero-shot, which has no rounds
        return [Cell("-")] * 3
    megabytes = size / 1e6
    return [
        Cell(f"{reached:.0f} of {row['seeds']}", value=reached),
        Cell(f"{rounds:.1f}" if rounds == rounds else "-", value=rounds),
        Cell(f"{megabytes:.3g}" if megabytes == megabytes else "-", value=megabytes),
    ]


def _p(value: float) -> str:
    if value != value:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
