"""``fl2ora calibrate``: fit a post-hoc calibrator to a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console

import fl2ora.calibration as calibration  # its names are loaded when used, and torch with them
from fl2ora.commands.consoles import console_for
from fl2ora.commands.metric_tables import print_metrics
from fl2ora.commands.options import AsJson
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import with_absolute_paths
from fl2ora.experiment.plugins import load
from fl2ora.reporting.run_file import RUN_FILE
from fl2ora.reporting.run_lines import UNCONVERGED
from fl2ora.reporting.sources import (
    CALIBRATED,
    CLIENTS_TEST,
    central_sources,
    file_ending,
    part_of,
)
from fl2ora.reporting.tables import shown_metrics, shown_rows
from fl2ora.reporting.whole_files import write_whole


def calibrate(
    run_dir: Annotated[Path, typer.Argument()],
    calibrator: Annotated[
        str, typer.Option("--calibrator", help="Spec, such as temperature or 'vector(ridge=0.01)'.")
    ],
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Fit a calibrator on a run's calibration logits and report its test metrics before and after.

    RUN_DIR is the folder of a finished run. The fit is the one the federation would have made: the
    same sums, without the messages.
    """
    set_verbosity(verbose)
    config = _config(run_dir)
    # Imported here so that a mistake above is answered before Flower is loaded.
    from fl2ora.federated_data.protocols.base import PartMean, Protocol
    from fl2ora.reporting.logits import SavedLogits
    from fl2ora.reporting.plots import reliability_figure
    from fl2ora.server_app.artifacts import save_fitted
    from fl2ora.server_app.calibrating import fit_saved, met_tolerance
    from fl2ora.server_app.measure_saved import measure_saved
    from fl2ora.server_app.metrics_by_source import all_metrics
    from fl2ora.server_app.run_plugins import build_run_calibrator

    calibrator = with_absolute_paths(calibrator)
    new_classes = load(config.protocol, Protocol).new_classes
    chosen = build_run_calibrator(calibrator, new_classes=new_classes)
    if chosen is None:
        raise UserError("--calibrator: expected a calibrator, found 'none'")
    saved = SavedLogits.load(run_dir)
    fitted = fit_saved(chosen, saved)
    parameters, converged = fitted.parameters, met_tolerance(fitted)
    metrics = calibration.chosen_metrics(config.metrics)

    def spec_of(classes: int) -> calibration.StatsSpec:
        return calibration.spec_for(metrics, config.num_bins, classes)

    after = measure_saved(chosen, parameters, saved, spec_of)
    central, clients = (
        {
            name: calibration.CalibrationStats.from_logits(
                part.logits, part.labels, spec_of(part.num_classes)
            )
            for name, part in parts.items()
        }
        for parts in (saved.central, saved.test)
    )
    draws, means = config.resamples, [PartMean(**mean) for mean in saved.means]
    found: dict[str, dict[str, float]] = {
        **all_metrics(central, clients, draws, "", metrics, means),
        **all_metrics(after.central, after.clients, draws, CALIBRATED, metrics, means),
    }
    folder = save_fitted(run_dir, calibrator, chosen, parameters, saved.num_classes)
    for source, stats in after.central.items():
        panels = {"before": central[source], "after": stats}
        path = folder / f"reliability{file_ending(source)}"
        reliability_figure(panels, path, title=f"{calibrator} {part_of(source)}".strip())
    write_whole(folder / "metrics.json", json.dumps(found, indent=2) + "\n")
    console = console_for(stderr=as_json)
    _print(console, found, config.num_rounds)
    for source, reason in after.left_out.items():
        console.print(f"{source} not calibrated: {reason}", markup=False, soft_wrap=True)
    if not converged:
        console.print(f"{calibrator}: {UNCONVERGED}", markup=False, soft_wrap=True)
    console.print(
        f"Calibrator, metrics and plot are in {folder.resolve()}", markup=False, soft_wrap=True
    )
    if as_json:
        where = str(folder.resolve())
        print(json.dumps({"calibrator_dir": where, "converged": converged, "metrics": found}))


def _config(run_dir: Path) -> RunConfig:
    """Read a run's configuration.

    Raises:
        UserError: the folder is no run directory, or its record is damaged.
    """
    path = run_dir / RUN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config = content.get("config") if isinstance(content, dict) else None
        if not isinstance(config, dict):
            raise UserError("expected an object with the run's settings under 'config'")
        found = RunConfig.from_flat(config)
        calibration.chosen_metrics(found.metrics)
    except (OSError, ValueError, RecursionError) as error:  # UserError is a ValueError
        raise UserError(
            f"{run_dir}: expected the folder of a run, with {RUN_FILE}: {error}"
        ) from None
    return found


def _print(console: Console, found: dict[str, dict[str, float]], last: int) -> None:
    """Print the metrics before and after, one below the other."""
    sources = [*central_sources(found), CLIENTS_TEST]
    names = [name for source in sources for name in (source, source + CALIBRATED) if name in found]
    table = pd.DataFrame([{"round": last, "source": name, **found[name]} for name in names])
    head = ["source", *(metric.title for metric in shown_metrics(table))]
    rows = [[name, *shown_rows(table, name)[0][1:]] for name in names]
    print_metrics(console, "Before and after calibration", head, rows)
