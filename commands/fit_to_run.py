"""Fitting a post-hoc calibrator to a finished run: what ``fl2ora calibrate`` does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.calibration.metrics.table import chosen_metrics, spec_for
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.protocols.base import PartMean, Protocol
from fl2ora.reporting.logits import SavedLogits, Scored
from fl2ora.reporting.plots import reliability_figure
from fl2ora.reporting.set_tables import write_sets
from fl2ora.reporting.sources import CALIBRATED, file_ending, part_of
from fl2ora.reporting.whole_files import write_whole
from fl2ora.server_app.artifacts import save_fitted
from fl2ora.server_app.calibrating import fit_saved, met_tolerance
from fl2ora.server_app.measure_saved import MeasuredParts, SpecOf, measure_saved, with_sets
from fl2ora.server_app.metrics_by_source import all_metrics
from fl2ora.server_app.run_plugins import build_run_calibrator


@dataclass(frozen=True)
class FitToRun:
    """What a fit came to.

    Attributes:
        folder: of the calibrator, its metrics and plots.
        metrics: by source, before the calibrator and after it.
        converged: the fit met its tolerance.
        left_out: why a central part has no metrics after it, by its source.
    """

    folder: Path
    metrics: dict[str, dict[str, float]]
    converged: bool
    left_out: Mapping[str, str]


def fit_to_run(run_dir: Path, config: RunConfig, spec: str) -> FitToRun:
    """Fit a calibrator to a run's calibration logits; measure, save and draw what it does.

    Args:
        run_dir: folder of the finished run.
        config: of the run.
        spec: of the calibrator.

    Raises:
        UserError: the spec is none of a calibrator that fits, or the logits are missing or broken.
    """
    calibrator = _calibrator_for(config, spec)
    saved = SavedLogits.load(run_dir)
    fitted = fit_saved(calibrator, saved)
    metrics = chosen_metrics(config.metrics)

    def spec_of(classes: int) -> StatsSpec:
        return spec_for(metrics, config.num_bins, classes)

    before = _untouched(saved, spec_of)
    after = measure_saved(calibrator, fitted.parameters, saved, spec_of)
    draws, means = config.resamples, [PartMean(**mean) for mean in saved.means]
    found = {
        **all_metrics(before.central, before.clients, draws, "", metrics, means),
        **with_sets(
            all_metrics(after.central, after.clients, draws, CALIBRATED, metrics, means), after
        ),
    }
    folder = save_fitted(run_dir, spec, calibrator, fitted.parameters, saved.num_classes)
    for source, stats in after.central.items():
        panels = {"before": before.central[source], "after": stats}
        path = folder / f"reliability{file_ending(source)}"
        reliability_figure(panels, path, title=f"{spec} {part_of(source)}".strip())
    write_sets(folder, {**after.sets, **after.client_sets})
    write_whole(folder / "metrics.json", json.dumps(found, indent=2) + "\n")
    return FitToRun(folder, found, met_tolerance(fitted), after.left_out)


def _calibrator_for(config: RunConfig, spec: str) -> Calibrator:
    new_classes = load(config.protocol, Protocol).new_classes
    calibrator = build_run_calibrator(spec, new_classes=new_classes)
    if calibrator is None:
        raise UserError("--calibrator: expected a calibrator, found 'none'")
    return calibrator


def _untouched(saved: SavedLogits, spec_of: SpecOf) -> MeasuredParts:
    """Return the sums of the run's own predictions."""

    def sums(part: Scored) -> CalibrationStats:
        return CalibrationStats.from_logits(part.logits, part.labels, spec_of(part.num_classes))

    central = {source: sums(part) for source, part in saved.central.items()}
    return MeasuredParts(central, {client: sums(part) for client, part in saved.test.items()}, {})
