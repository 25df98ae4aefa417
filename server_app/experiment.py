"""One run from its configuration to what it leaves behind."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from flwr.serverapp import Grid

from clip_tuning.adapter import save_adapter
from clip_tuning.build import build_classifier, resolve_device
from clip_tuning.classifier import ClipClassifier
from clip_tuning.methods.base import TuningMethod
from experiment.config import RunConfig
from experiment.plugins import load
from federated_data.clients import load_federation
from federated_data.protocols.base import Federation
from reporting.events import JsonLines
from reporting.run_directory import create_run_directory
from reporting.summary import write_summary
from reporting.tables import metrics_table, write_csv
from server_app.evaluation import Evaluation
from server_app.handshake import Peer, shake_hands
from server_app.plugins import build_strategy, check_plugins
from server_app.rounds import Rounds

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
    adapter = classifier.export()
    peers = shake_hands(grid, config, federation.class_names)
    tracker.log("nodes", nodes=[_described(peer) for peer in peers])
    evaluation = Evaluation(grid, peers, config, federation, classifier, tracker)
    evaluation.measure_zero_shot(_classifier(config, federation, "zero_shot"))
    strategy = build_strategy(config.strategy)
    adapter = Rounds(grid, peers, strategy, config, evaluation, tracker).run(adapter)
    classifier.restore(adapter)
    save_adapter(adapter, folder / "global.safetensors")
    load(config.method, "clip_tuning.methods", TuningMethod).save(classifier, folder / "adapter")
    _report(folder, config, evaluation)


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


def _report(folder: Path, config: RunConfig, evaluation: Evaluation) -> None:
    """Write the tables, the figures and the summary."""
    # Matplotlib takes a second to load, and the first round need not wait for it.
    from reporting.figures import reliability_figure, rounds_figure

    write_csv(folder)
    first, last = min(evaluation.history), max(evaluation.history)
    panels = {"zero-shot": evaluation.history[first]}
    if last > first:
        panels[f"round {last}"] = evaluation.history[last]
    figures = reliability_figure(panels, folder / "reliability")
    figures += rounds_figure(metrics_table(folder), folder / "rounds")
    write_summary(folder, config, figures)
