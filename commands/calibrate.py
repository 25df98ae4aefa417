"""``fl2ora calibrate``: fit a post-hoc calibrator to a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fl2ora.commands.consoles import console_for
from fl2ora.commands.metric_tables import print_metrics
from fl2ora.commands.options import AsJson
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.experiment.paths import with_absolute_paths
from fl2ora.reporting.run_file import read_config
from fl2ora.reporting.run_lines import UNCONVERGED
from fl2ora.reporting.set_tables import HEAD, set_rows
from fl2ora.reporting.sources import (
    CALIBRATED,
    CLIENTS_TEST,
    central_sources,
)
from fl2ora.reporting.tables import shown_metrics, shown_rows


def calibrate(
    run_dir: Annotated[Path, typer.Argument()],
    calibrator: Annotated[
        str, typer.Option("--calibrator", help="Spec, such as temperature or 'vector(ridge=0.01)'.")
    ],
    as_json: AsJson = False,
    verbose: Verbose = None,
) -> None:
    """Fit a calibrator on a run's calibration logits and report its test metrics before and after.

    RUN_DIR is the folder of a finished run. The fit is the one the federation would have made: the
    same sums, without the messages.
    """
    set_verbosity(verbose)
    config, spec = read_config(run_dir), with_absolute_paths(calibrator)
    # Imported here so that a mistake above is answered before Flower is loaded.
    from fl2ora.commands.fit_to_run import fit_to_run

    console = console_for(stderr=as_json)
    with console.status("fitting and measuring"):
        fitted = fit_to_run(run_dir, config, spec)
    where = str(fitted.folder.resolve())
    _print(console, fitted.metrics, config.num_rounds)
    if sets := set_rows(fitted.metrics.items()):
        print_metrics(console, "Sets of classes", HEAD, sets)
    for source, reason in fitted.left_out.items():
        console.print(f"{source} not calibrated: {reason}", markup=False, soft_wrap=True)
    if not fitted.converged:
        console.print(f"{spec}: {UNCONVERGED}", markup=False, soft_wrap=True)
    console.print(f"Calibrator, metrics and plot are in {where}", markup=False, soft_wrap=True)
    if as_json:
        said = {"calibrator_dir": where, "converged": fitted.converged, "metrics": fitted.metrics}
        print(json.dumps(said))


def _print(console: Console, found: dict[str, dict[str, float]], last: int) -> None:
    """Print the metrics before and after, one below the other."""
    import pandas as pd

    sources = [*central_sources(found), CLIENTS_TEST]
    names = [name for source in sources for name in (source, source + CALIBRATED) if name in found]
    table = pd.DataFrame([{"round": last, "source": name, **found[name]} for name in names])
    head = ["source", *(metric.title for metric in shown_metrics(table))]
    rows = [[name, *shown_rows(table, name)[0][1:]] for name in names]
    print_metrics(console, "Before and after calibration", head, rows)
