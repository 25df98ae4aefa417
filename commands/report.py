"""``fl2ora report``: one page, tables and figures of runs and sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fl2ora.commands.compare import Metrics, Reached
from fl2ora.commands.consoles import console_for
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import made_absolute


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", show_default=False)],
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
        typer.Option(
            metavar="FOLDER", show_default=False, help="Where to; else FOLDER/report, if it is one."
        ),
    ] = None,
    verbose: Verbose = None,
) -> None:
    """Make a page about runs or sweeps, with its tables and plots beside it.

    FOLDER is that of a finished run or of a sweep; several are put side by side. report.html holds
    everything it shows, needs no network, and can be sent to others; summary.md, .tex, .csv and
    .parquet are its tables.
    """
    set_verbosity(verbose)
    if output is None and len(folders) > 1:
        raise UserError(f"--output: expected a folder for the report of {len(folders)} folders")
    console = console_for(stderr=False)
    from fl2ora.reporting.against_baseline import baseline_from
    from fl2ora.reporting.collected_runs import collect
    from fl2ora.reporting.comparison import target_from
    from fl2ora.reporting.report import write_report

    collection = collect(folders)
    wanted = None if target is None else target_from(target)
    labels = baseline_from(baseline, collection)
    where = Path(made_absolute(str(output))) if output is not None else folders[0] / "report"
    with console.status(f"{len(collection.runs)} runs"):
        page = write_report(collection, where, labels, wanted, metrics)
    for note in collection.notes:
        console.print(f"Note: {note}", style="yellow", markup=False, soft_wrap=True)
    console.print(f"Page: {made_absolute(str(page))}", markup=False, soft_wrap=True)
