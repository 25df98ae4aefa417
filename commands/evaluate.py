"""``fl2ora evaluate``: accuracy and calibration of a run's result on any dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fl2ora.commands.consoles import console_for
from fl2ora.commands.metric_tables import print_metrics
from fl2ora.commands.options import AsJson, Device, FittedSpec, Trained
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.experiment.errors import UserError, printable
from fl2ora.experiment.paths import with_absolute_paths
from fl2ora.reporting.whole_files import whole_file

if TYPE_CHECKING:
    from fl2ora.results.evaluating import Evaluated


def evaluate(
    trained: Trained,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", show_default=False, help="Whose images; the run's if left out."
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            show_default=False,
            help="What of it is measured; the run's, or with --dataset the test split.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(show_default=False, help="Names joined by +; the run's if left out."),
    ] = None,
    calibrator: FittedSpec = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Write everything measured there."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = None,
) -> None:
    """Measure accuracy and calibration of a run's result, before and after its calibrator.

    RUN is the folder of a finished run, or of an adapter that was exported. Classes that are those
    tuned on in another order or spelling are mapped; others are classified by their own names.
    """
    set_verbosity(verbose)
    if csv is not None and not csv.absolute().parent.is_dir():
        raise UserError(f"--csv: expected a file in a folder that is there, found {csv}")
    console = console_for(stderr=as_json)
    # Imported here so that a mistake on the command line is answered before torch is loaded.
    from fl2ora.results import evaluating
    from fl2ora.results.loading import source_at

    if console.is_terminal:  # not a live line: reading the images shows a bar
        console.print("Measuring without tuning, with it, and calibrated", style="dim")
    found = evaluating.evaluate(
        source_at(trained),
        None if dataset is None else with_absolute_paths(dataset),
        None if protocol is None else with_absolute_paths(protocol),
        metrics,
        calibrator=calibrator,
        device=device,
    )
    _print(console, found, everything=metrics is not None)
    if csv is not None:
        with whole_file(csv) as part:
            found.table.to_csv(part, index=False)
        console.print(f"Written to {csv.absolute()}", markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(_outcome(found)))


def _print(console: Console, found: Evaluated, *, everything: bool) -> None:
    from fl2ora.reporting.set_tables import HEAD, set_rows
    from fl2ora.reporting.tables import cell
    from fl2ora.results.evaluating import by_part

    shown = [metric for metric in found.metrics if everything or metric.shown]
    head = ["model", *(metric.title for metric in shown)]
    for part, rows in by_part(found.table):
        cells = [
            [str(row["model"]), *(cell(m, row) if m.name in row else "-" for m in shown)]
            for row in rows
        ]
        images = f", {rows[0]['num_examples']:,.0f} images" if "num_examples" in rows[0] else ""
        print_metrics(console, printable(f"{part} of {found.dataset}{images}"), head, cells)
    if sets := set_rows((part, row) for part, rows in by_part(found.table) for row in rows):
        print_metrics(console, "Sets of classes", HEAD, sets)
    for note in found.notes:
        console.print(f"Note: {printable(note)}", style="yellow", markup=False, soft_wrap=True)


def _outcome(found: Evaluated) -> dict[str, object]:
    """Return what ``--json`` prints; JSON has no NaN."""
    from fl2ora.results.evaluating import by_part

    parts = {
        part: {
            str(row["model"]): {
                str(name): value
                for name, value in row.items()
                if name not in ("part", "model") and value == value
            }
            for row in rows
        }
        for part, rows in by_part(found.table)
    }
    return {
        "dataset": found.dataset,
        "protocol": found.protocol,
        "parts": parts,
        "notes": list(found.notes),
    }
