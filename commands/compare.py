"""``fl2ora compare``: finished runs side by side, as a table in any of five formats."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl2ora.commands.consoles import console_for
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import made_absolute

if TYPE_CHECKING:
    import pandas as pd

    from fl2ora.reporting.comparison_text import TextTable

Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="AXIS=LABEL",
        show_default=False,
        help="Test differences from these rows: axis=label, or zero-shot.",
    ),
]
Reached = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC=VALUE", show_default=False, help="Rounds and bytes until this is reached."
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        show_default=False,
        help="Whose metrics, as in metrics.jsonl; if left out, the first central part's.",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(show_default=False, help="Names joined by +; those that tables show if left out."),
]


class Format(StrEnum):
    """How a table is written."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"
    PARQUET = "parquet"


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", show_default=False)],
    baseline: Baseline = None,
    target: Reached = None,
    source: Source = None,
    metrics: Metrics = None,
    kind: Annotated[
        Format, typer.Option("--format", help="Of what is printed or written.")
    ] = Format.TERMINAL,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Write to a file; see --format."),
    ] = None,
    verbose: Verbose = None,
) -> None:
    """Compare finished runs: mean and spread over seeds, and whether differences may be chance.

    RUNS... are folders of runs and of sweeps. Runs that differ in nothing but the seed share a row.
    With --baseline every row is tested against the row that has these labels and otherwise its own:
    on the same images, and over seeds; p-values are corrected for their number.
    """
    set_verbosity(verbose)
    output = None if output is None else Path(made_absolute(str(output)))
    if output is None and kind is Format.PARQUET:
        raise UserError("--format parquet: expected --output FILE, as it is no text")
    if output is not None and kind is Format.TERMINAL:
        raise UserError("--output: expected --format markdown, latex, csv or parquet with it")
    from fl2ora.reporting.comparison_text import latex, markdown, write

    # Notes go beside a table that is to be pasted or piped.
    console = console_for(stderr=kind is not Format.TERMINAL)
    with console.status("reading runs"):
        tables, numbers, notes = compared(runs, baseline, target, source, metrics)
    if output is not None:
        for path in write(output, kind.value, tables, numbers):
            console.print(f"Written to {path.absolute()}", markup=False, soft_wrap=True)
    elif kind is Format.TERMINAL:
        for table in tables:
            print_table(console, table)
    elif kind is Format.CSV:
        print("\n".join(frame.to_csv(index=False) for frame in numbers.values()), end="")
    else:
        text = markdown if kind is Format.MARKDOWN else latex
        print("\n".join(text(table) for table in tables), end="")
    for note in notes:
        console.print(f"Note: {note}", style="yellow", markup=False, soft_wrap=True)


def compared(
    runs: list[Path],
    baseline: str | None,
    target: str | None,
    source: str | None,
    metrics: str | None,
) -> tuple[list[TextTable], dict[str, pd.DataFrame], list[str]]:
    """Return the tables of a comparison, as text and as numbers by name, and notes."""
    from fl2ora.reporting.against_baseline import against_baseline, baseline_from
    from fl2ora.reporting.collected_runs import collect
    from fl2ora.reporting.comparison import metrics_of, summarised, target_from
    from fl2ora.reporting.comparison_text import baseline_table, summary_table

    collection = collect(runs)
    notes, source = list(collection.notes), source or collection.source
    wanted = None if target is None else target_from(target)
    labels = None if baseline is None else baseline_from(baseline, collection)
    chosen = metrics_of(collection, metrics)
    summary = summarised(collection, chosen, source, wanted)
    tables = [summary_table(summary, collection.axes, chosen, wanted)]
    numbers = {"summary": summary}
    if labels is not None:
        found, more = against_baseline(collection, labels, source)
        notes += more
        if not len(found):
            raise UserError("--baseline: expected rows to compare with it, found none")
        tables.append(baseline_table(found, collection.axes))
        numbers["baseline"] = found
    return tables, numbers, notes


def print_table(console: Console, table: TextTable) -> None:
    """Print a table: the best bold, the second best underlined."""
    styles = {0: "", 1: "bold green", 2: "underline"}
    grid = Table(title=Text(table.title))
    for place, name in enumerate(table.head):
        longest = max(map(len, name.split()), default=1)
        grid.add_column(
            Text(name), justify="left" if place < table.labels else "right", min_width=longest
        )
    for row in table.rows:
        grid.add_row(*(Text(cell.text, style=styles[cell.rank]) for cell in row))
    console.print(grid)
