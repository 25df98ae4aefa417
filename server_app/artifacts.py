"""What a finished run leaves behind besides its events: adapter, logits, calibrator, report."""

from __future__ import annotations

from pathlib import Path

from fl2ora.calibration.calibrators.base import Calibrator, Parameters
from fl2ora.calibration.calibrators.files import save_calibrator
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.clip_tuning.adapter import Adapter, save_adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.plugins import load
from fl2ora.reporting.run_summary import write_summary
from fl2ora.reporting.tables import metrics_table, write_classwise, write_csv
from fl2ora.server_app.calibrating import SUFFIX
from fl2ora.server_app.evaluation import Evaluation
from fl2ora.server_app.metrics_by_source import CLIENTS_TEST, SERVER_TEST

CALIBRATORS = "calibrators"


def save_model(
    folder: Path, config: RunConfig, classifier: ClipClassifier, adapter: Adapter
) -> None:
    """Write the global adapter as it travels, and in its method's own format."""
    classifier.restore(adapter)
    save_adapter(adapter, folder / "global.safetensors")
    load(config.method, TuningMethod).save(classifier, folder / "adapter")


def save_fitted(
    folder: Path, spec: str, calibrator: Calibrator, parameters: Parameters, num_classes: int
) -> Path:
    """Write a fitted calibrator to ``calibrators/<name>`` and return that folder."""
    path = folder / CALIBRATORS / spec.partition("(")[0].rpartition(":")[2]

    def build(_: str) -> Calibrator:
        return calibrator

    save_calibrator(path, spec, parameters, num_classes, build)
    return path


def report(
    folder: Path,
    config: RunConfig,
    evaluation: Evaluation,
    calibrated: CalibrationStats | None,
) -> None:
    """Write the tables, the figures and the summary.

    Args:
        folder: the run directory.
        config: of the run.
        evaluation: what was measured.
        calibrated: the central test set's sums after post-hoc calibration, if there was any.
    """
    write_csv(folder)
    write_classwise(folder, evaluation.class_names, _measured(evaluation, calibrated))
    figures = _draw(folder, config, evaluation, calibrated) if config.figures else []
    write_summary(folder, config, figures)


def _measured(
    evaluation: Evaluation, calibrated: CalibrationStats | None
) -> dict[tuple[int, str], CalibrationStats]:
    """Return the sums at hand by round and source."""
    last = max(evaluation.history)
    measured = {(at, SERVER_TEST): stats for at, stats in evaluation.history.items()}
    if evaluation.clients:
        nothing = CalibrationStats.zero(evaluation.spec)
        measured[last, CLIENTS_TEST] = sum(evaluation.clients.values(), start=nothing)
    if calibrated is not None:
        measured[last, SERVER_TEST + SUFFIX] = calibrated
    return measured


def _draw(
    folder: Path,
    config: RunConfig,
    evaluation: Evaluation,
    calibrated: CalibrationStats | None,
) -> list[Path]:
    # Matplotlib takes a second to load, and the first round need not wait for it.
    from fl2ora.reporting.plots import (
        clients_figure,
        reliability_figure,
        rounds_figure,
        smooth_figure,
    )

    first, last = min(evaluation.history), max(evaluation.history)
    panels = {"zero-shot": evaluation.history[first]}
    if last > first:
        panels[f"round {last}"] = evaluation.history[last]
    if calibrated is not None:
        panels[config.calibrator.partition("(")[0]] = calibrated
    figures = reliability_figure(panels, folder / "reliability")
    figures += smooth_figure(panels, folder / "smooth")
    figures += rounds_figure(metrics_table(folder), folder / "rounds")
    return figures + clients_figure(evaluation.clients, folder / "clients")
