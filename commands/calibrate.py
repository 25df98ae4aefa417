"""``fl2ora calibrate``: fit a post-hoc calibrator to a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console

from fl2ora.commands.metric_tables import print_metrics
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.tables import shown_metrics, shown_rows

SOURCES = ("server-test", "clients-test")


def calibrate(
    run_dir: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    calibrator: Annotated[
        str, typer.Option("--calibrator", help="Spec, such as temperature or 'vector(ridge=0.01)'.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="End the output with one JSON line.")
    ] = False,
) -> None:
    """Fit a calibrator on a run's calibration logits and report its test metrics before and after.

    The fit is the one the federation would have made: the same sums, without the messages.
    """
    config = _config(run_dir)
    # Imported here so that a mistake above is answered before torch is loaded.
    from fl2ora.calibration.metrics.table import chosen_metrics, spec_for
    from fl2ora.calibration.stats import CalibrationStats
    from fl2ora.reporting.logits import SavedLogits
    from fl2ora.reporting.plots import reliability_figure
    from fl2ora.server_app.artifacts import save_fitted
    from fl2ora.server_app.calibrating import fit_saved
    from fl2ora.server_app.evaluation import SUFFIX, measure_saved
    from fl2ora.server_app.metrics_by_source import all_metrics
    from fl2ora.server_app.run_plugins import build_run_calibrator

    chosen = build_run_calibrator(calibrator)
    if chosen is None:
        raise UserError("--calibrator: expected a calibrator, found 'none'")
    saved = SavedLogits.load(run_dir)
    parameters = fit_saved(chosen, saved)
    metrics = chosen_metrics(config.metrics)
    num_classes = saved.server_test.logits.shape[1]
    spec = spec_for(metrics, config.num_bins, num_classes)
    central, clients = measure_saved(chosen, parameters, saved, spec)
    parts = {"": saved.server_test, **saved.test}
    before = {n: CalibrationStats.from_logits(p.logits, p.labels, spec) for n, p in parts.items()}
    untouched = before.pop("")
    found: dict[str, dict[str, float]] = {
        **all_metrics(untouched, before, config.resamples, metrics=metrics),
        **all_metrics(central, clients, config.resamples, SUFFIX, metrics),
    }
    folder = save_fitted(run_dir, calibrator, chosen, parameters, num_classes)
    panels = {"before": untouched, "after": central}
    reliability_figure(panels, folder / "reliability", title=calibrator)
    (folder / "metrics.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    console = Console(stderr=as_json, highlight=False)
    _print(console, found, config.num_rounds, SUFFIX)
    console.print(f"Calibrator, metrics and plot are in {folder.resolve()}", soft_wrap=True)
    if as_json:
        print(json.dumps({"calibrator_dir": str(folder.resolve()), "metrics": found}))


def _config(run_dir: Path) -> RunConfig:
    """Read a run's configuration.

    Raises:
        UserError: the folder is no run directory.
    """
    path = run_dir / "run.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return RunConfig.from_flat(content["config"])
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(
            f"{run_dir}: expected the directory of a run, with run.json: {error}"
        ) from None


def _print(console: Console, found: dict[str, dict[str, float]], last: int, suffix: str) -> None:
    """Print the metrics before and after, one below the other."""
    names = [name for source in SOURCES for name in (source, source + suffix) if name in found]
    table = pd.DataFrame([{"round": last, "source": name, **found[name]} for name in names])
    head = ["source", *(metric.title for metric in shown_metrics(table))]
    rows = [[name, *shown_rows(table, name)[0][1:]] for name in names]
    print_metrics(console, "Before and after calibration", head, rows)
