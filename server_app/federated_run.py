"""One run from its configuration to what it leaves behind."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from flwr.serverapp import Grid

from fl2ora.calibration.stats import CalibrationStats
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.build import build_classifier, resolve_device
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.factors import scalings
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.clients import load_federation
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.reporting.events import JsonLines
from fl2ora.reporting.logits import SavedLogits
from fl2ora.reporting.run_directory import create_run_directory
from fl2ora.server_app.artifacts import report, save_fitted, save_model
from fl2ora.server_app.calibrating import SUFFIX, FederatedFit, measure_calibrated
from fl2ora.server_app.evaluation import Evaluation
from fl2ora.server_app.handshake import Peer, shake_hands
from fl2ora.server_app.metrics_by_source import all_metrics
from fl2ora.server_app.rounds import Rounds
from fl2ora.server_app.run_plugins import (
    build_run_calibrator,
    build_strategy,
    check_plugins,
    check_views,
)
from fl2ora.strategies.base import Strategy

logger = logging.getLogger(__name__)


def run_experiment(grid: Grid, config: RunConfig, run_id: int) -> Path:
    """Run one federated experiment and return its directory.

    Raises:
        UserError: a mistake in the configuration, the data or the nodes; nothing was trained yet.
    """
    check_plugins(config)
    folder = create_run_directory(config, run_id)
    tracker = JsonLines(folder)
    logger.info("Run directory: %s", folder)
    try:
        _run(grid, config, folder, tracker)
    except Exception as error:
        tracker.log("failed", kind=type(error).__name__, message=str(error))
        raise
    tracker.log("finished")
    return folder


def _run(grid: Grid, config: RunConfig, folder: Path, tracker: JsonLines) -> None:
    tracker.log("start", config=config.flat())
    torch.set_num_threads(config.threads)
    federation = load_federation(config.dataset, config.protocol)
    classifier = _classifier(config, federation, config.method)
    check_views(config, classifier)
    adapter = classifier.export()
    strategy = build_strategy(config.strategy)
    if isinstance(strategy, Strategy):
        strategy.check(adapter)
    peers = shake_hands(grid, config, federation.class_names)
    tracker.log("nodes", nodes=[_described(peer) for peer in peers])
    evaluation = Evaluation(grid, peers, config, federation, classifier, tracker)
    evaluation.measure_zero_shot(_classifier(config, federation, "zero_shot"))
    rounds = Rounds(
        grid,
        peers,
        strategy,
        config,
        evaluation,
        tracker,
        scalings(classifier.clip),
        load(config.method, TuningMethod).round_weights(config.num_rounds),
    )
    adapter = rounds.run(adapter)
    save_model(folder, config, classifier, adapter)
    saved = evaluation.score(adapter, _classifier(config, federation, "zero_shot"))
    saved.save(folder)
    fitting = FederatedFit(grid, peers, config, tracker)
    calibrated = _calibrate(fitting, config, adapter, saved, evaluation, folder, tracker)
    report(folder, config, evaluation, calibrated)


def _calibrate(
    fitting: FederatedFit,
    config: RunConfig,
    adapter: Adapter,
    saved: SavedLogits,
    evaluation: Evaluation,
    folder: Path,
    tracker: JsonLines,
) -> CalibrationStats | None:
    """Fit and measure the run's calibrator, if it has one; return the central set's sums."""
    calibrator = build_run_calibrator(config.calibrator)
    if calibrator is None:
        return None
    num_classes = saved.server_test.logits.shape[1]
    parameters = fitting.run(calibrator, adapter, num_classes)
    save_fitted(folder, config.calibrator, calibrator, parameters, num_classes)
    central, clients = measure_calibrated(calibrator, parameters, saved, evaluation.spec)
    if evaluation.on_nodes:
        clients = evaluation.ask_calibrated(adapter, parameters)
    found = all_metrics(central, clients, config.resamples, SUFFIX, evaluation.metrics)
    for source, values in found.items():
        tracker.metrics(config.num_rounds, source, values)
    return central


def _classifier(config: RunConfig, federation: Federation, method: str) -> ClipClassifier:
    classifier = build_classifier(
        config.model, method, federation.class_names, federation.templates, config.seed
    )
    return classifier.to(resolve_device(config.device))


def _described(peer: Peer) -> dict[str, object]:
    hello = peer.hello
    return {
        "client": hello.client,
        "source": hello.source,
        "train": hello.num_train,
        "test": hello.num_test,
        "device": hello.device,
    }
