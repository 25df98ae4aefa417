"""``fl2ora report``: one page, tables and figures of a run or a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fl2ora.commands.compare import Metrics, Reached
from fl2ora.commands.consoles import console_for
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.experiment.paths import made_absolute


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False)],
    baseline: Annotated[
        str,
        typer.Option(
            metavar="AXIS=LABEL", help="Test differences from these rows: axis=label, or zero-shot."
        ),
    ] = "zero-shot",
    target: Reached = None,
    metrics: Metrics = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", show_default=False, help="Where to; else FOLDER/report."),
    ] = None,
    verbose: Verbose = None,
) -> None:
    """Make a page about a run or a sweep, with its tables and plots beside it.

    FOLDER is that of a finished run or of a sweep. report.html holds everything it shows, needs no
    network, and can be sent to others; summary.md, .tex, .csv and .parquet are its tables.
    """
    set_verbosity(verbose)
    console = console_for(stderr=False)
    from fl2ora.reporting.against_baseline import baseline_from
    from fl2ora.reporting.collected_runs import collect
    from fl2ora.reporting.comparison import target_from
    from fl2ora.reporting.report import write_report

    collection = collect([folder])
    wanted = None if target is None else target_from(target)
    labels = baseline_from(baseline, collection)
    where = Path(made_absolute(str(output))) if output is not None else folder / "report"
    with console.status(f"{len(collection.runs)} runs"):
        page = write_report(collection, where, labels, wanted, metrics)
    for note in collection.notes:
        console.print(f"Note: {note}", style="yellow", markup=False, soft_wrap=True)
    console.print(f"Page: {made_absolute(str(page))}", markup=False, soft_wrap=True)
