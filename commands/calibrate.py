"""``fl2ora calibrate``: fit a post-hoc calibrator to a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.tables import SHOWN, shown_rows

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
    """Fit a calibrator on a run's calibration logits and report its test figures before and after.

    The fit is the one the federation would have made: the same sums, without the messages.
    """
    config = _config(run_dir)
    # Imported here so that a mistake above is answered before torch is loaded.
    from fl2ora.calibration.stats import CalibrationStats, StatsSpec
    from fl2ora.reporting.figures import reliability_figure
    from fl2ora.reporting.logits import SavedLogits
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
    spec = StatsSpec(num_bins=config.num_bins)
    central, clients = measure_saved(chosen, parameters, saved, spec)
    parts = {"": saved.server_test, **saved.test}
    before = {n: CalibrationStats.from_logits(p.logits, p.labels, spec) for n, p in parts.items()}
    untouched = before.pop("")
    figures: dict[str, dict[str, float]] = {
        **all_metrics(untouched, before, config.resamples),
        **all_metrics(central, clients, config.resamples, SUFFIX),
    }
    folder = save_fitted(run_dir, calibrator, chosen, parameters, saved.server_test.logits.shape[1])
    panels = {"before": untouched, "after": central}
    reliability_figure(panels, folder / "reliability", title=calibrator)
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    console = Console(stderr=as_json, highlight=False)
    console.print(_table(figures, config.num_rounds, SUFFIX))
    console.print(f"Calibrator, figures and table are in {folder.resolve()}", soft_wrap=True)
    if as_json:
        print(json.dumps({"calibrator_dir": str(folder.resolve()), "figures": figures}))


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


def _table(figures: dict[str, dict[str, float]], last: int, suffix: str) -> Table:
    """Return the figures before and after, side by side."""
    table = Table(title="Before and after calibration")
    for name in ("source", *SHOWN):
        table.add_column(name if name == "source" else name.upper(), justify="right")
    for source in SOURCES:
        for name in (source, source + suffix):
            if name in figures:
                row = pd.DataFrame([{"round": last, "source": name, **figures[name]}])
                table.add_row(name, *shown_rows(row, name)[0][1:])
    return table
