"""One run from its configuration to what it leaves behind."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from flwr.serverapp import Grid

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.clip_tuning.build import resolve_device, tuned_classifier, zero_shot_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import image_fit
from fl2ora.clip_tuning.learning_rates import learning_rate_for
from fl2ora.experiment.blame import blaming
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.federated_data.shares import NO_DATA, check_division, load_federation
from fl2ora.messages.evaluate import VALIDATION
from fl2ora.messages.hello import NodeInfo
from fl2ora.reporting.events import EVENTS_FILE, JsonLines, read_lines
from fl2ora.reporting.logits import SavedLogits
from fl2ora.reporting.model_card import ADAPTER, write_model_card
from fl2ora.reporting.run_directory import create_run_directory
from fl2ora.reporting.sources import part_source
from fl2ora.reporting.tables import write_classwise, write_csv
from fl2ora.server_app.artifacts import save_exported, save_fitted, save_global
from fl2ora.server_app.calibrating import fit_in_federation
from fl2ora.server_app.callbacks.base import RunContext
from fl2ora.server_app.clients import Clients
from fl2ora.server_app.evaluation import Evaluation
from fl2ora.server_app.handshake import shake_hands
from fl2ora.server_app.held_out import shares_of
from fl2ora.server_app.local_work import local_work
from fl2ora.server_app.outcome import Outcome, outcome_of
from fl2ora.server_app.part_models import check_part_classes
from fl2ora.server_app.privacy_record import save_spent, spent_before
from fl2ora.server_app.rounds import Run, RunState, rows_of, run_rounds
from fl2ora.server_app.run_log import LoggedRecord
from fl2ora.server_app.run_plugins import RunPlugins, build_plugins, check_views
from fl2ora.strategies.base import RunInfo

logger = logging.getLogger(__name__)


def run_experiment(grid: Grid, config: RunConfig, run_id: int) -> Path:
    """Run one federated experiment and return its directory.

    Raises:
        UserError: a mistake in the configuration, the data or the nodes, before anything was
            trained; or a run that failed by ``outcome_of``, of which everything is saved.
    """
    plugins = build_plugins(config)
    folder = create_run_directory(config, run_id)
    tracker = LoggedRecord(folder, config.num_rounds)
    try:
        torch.set_num_threads(config.threads)
        run, state = _begin(grid, config, plugins, folder, tracker)
        state = run_rounds(state, run)
        outcome = _finish(run, state, plugins)
    except BaseException as error:
        kind = type(error).__name__
        tracker.log("failed", kind=kind, message=str(error) or f"interrupted by {kind}")
        raise
    tracker.log("finished", **_said(outcome))
    return folder


def _begin(
    grid: Grid, config: RunConfig, plugins: RunPlugins, folder: Path, tracker: JsonLines
) -> tuple[Run, RunState]:
    """Load model and data, meet the nodes, measure zero-shot; return what round 1 starts from."""
    rate = learning_rate_for(config.method, config.model, config.optimiser, config.learning_rate)
    tracker.log("start", config=config.flat(), learning_rate=rate)
    clients, federation = _meet(grid, config, tracker)
    classifier = _tuned(config, federation)
    check_views(config, classifier)
    zero_shot = zero_shot_classifier(
        config.model, federation.class_names, federation.templates, classifier.clip.device
    )
    adapter = classifier.export()
    spent = spent_before(plugins.method, plugins.strategy)
    with blaming(plugins.strategy):
        work = local_work(config, clients.infos)
        plugins.strategy.begin(RunInfo(clients.keys, adapter, clients.ranks, work, spent))
    wanted = frozenset().union(*(callback.parts for callback in plugins.callbacks))
    evaluation = Evaluation(
        clients, config, federation, classifier, zero_shot,
        validation=VALIDATION in wanted, personal_rule=plugins.strategy.personal_rule,
    )  # fmt: skip
    context = RunContext(config, folder, tracker, classifier, evaluation)
    for callback in plugins.callbacks:
        with blaming(callback):
            callback.on_start(context)
    rows = evaluation.measure_zero_shot()
    for source, values in rows.items():
        tracker.metrics(0, source, values)
    state = RunState(0, adapter, history=rows_of(0, rows))
    return Run(context, clients, plugins.strategy, plugins.callbacks), state


def _meet(grid: Grid, config: RunConfig, tracker: JsonLines) -> tuple[Clients, Federation]:
    """Load the server's data, if it has any, and meet the nodes."""
    data = None
    if config.dataset != NO_DATA:
        fit = image_fit(config.model, config.augmentation)
        data = load_federation(config.dataset, config.protocol, fit, config.on_leak)
        tracker.log("data", **_data(data))
        for note in data.notes:
            logger.warning("Data: %s", note)
        classifier = _tuned(config, data)
        check_views(config, classifier)  # before anyone is waited for
        check_part_classes(classifier, config, data.parts)
    peers, federation = shake_hands(grid, config, data)
    clients = Clients(grid, peers, config, tracker, federation.class_names)
    tracker.log("nodes", nodes=[_described(info) for info in clients.infos.values()])
    if config.min_train_clients > len(clients.keys):
        raise UserError(
            f"min-train-clients: expected at most {len(clients.keys)}, the clients of this run, "
            f"found {config.min_train_clients}"
        )
    if federation.repeated:
        shares = list(shares_of(config, federation, clients.infos).values())
        for note in check_division(federation, shares, config.on_leak):
            tracker.log("leak", note=note)
            logger.warning("Data: %s", note)
    return clients, federation


def _tuned(config: RunConfig, federation: Federation) -> ClipClassifier:
    return tuned_classifier(
        config.model,
        config.method,
        federation.class_names,
        federation.templates,
        config.seed,
        resolve_device(config.device),
        fresh=True,
        gradient_checkpointing=config.gradient_checkpointing,
    )


def _finish(run: Run, state: RunState, plugins: RunPlugins) -> Outcome:
    """Save what training made before anything else, then calibrate and report.

    Raises:
        UserError: the run failed by ``outcome_of``; what there is has been saved.
    """
    context, outcome = run.context, outcome_of(state)
    save_global(context.folder, state.adapter)
    saved = context.evaluation.saved_logits()
    saved.save(context.folder)
    context.tracker.log("outcome", **_said(outcome))
    try:
        save_exported(context.folder, plugins.method, context.classifier, state.adapter)
        save_spent(context.folder / ADAPTER, context.config.strategy, run.strategy)
        if plugins.calibrator is not None:
            _calibrate(run, state, plugins.calibrator, saved)
    finally:
        evaluation = context.evaluation
        write_csv(context.folder)
        write_classwise(context.folder, evaluation.class_names, evaluation.by_source())
        write_model_card(context.folder, context.config)
        _let_callbacks_end(run)
    if outcome.failure:
        events = context.folder / EVENTS_FILE
        drops = [event for event in read_lines(events) if event["event"] == "drop"]
        last = f", such as of client {drops[-1]['client']}: {drops[-1]['reason']}" if drops else ""
        raise UserError(f"{outcome.failure}: the reasons are under 'drop' in {events}{last}")
    return outcome


def _let_callbacks_end(run: Run) -> None:
    """Let every callback leave what it leaves, also after one that failed, whose error is raised.

    Raises:
        UserError: names the first callback that failed.
    """
    errors: list[Exception] = []
    for callback in run.callbacks:
        try:
            with blaming(callback):
                callback.on_end(run.context)
        except UserError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _said(outcome: Outcome) -> dict[str, object]:
    return {"updates": outcome.updates, "asked": outcome.asked, "warning": outcome.warning}


def _calibrate(run: Run, state: RunState, calibrator: Calibrator, saved: SavedLogits) -> None:
    """Fit and measure the run's calibrator."""
    context = run.context
    config, evaluation = context.config, context.evaluation
    num_classes = saved.num_classes
    parameters = fit_in_federation(
        calibrator, config.calibrator, run.clients, context.tracker, state.adapter, num_classes
    )
    save_fitted(context.folder, config.calibrator, calibrator, parameters, num_classes)
    rows = evaluation.measure_calibrated(calibrator, parameters, state.adapter, saved)
    for source, values in rows.items():
        context.tracker.metrics(state.round, source, values)
    for source, reason in evaluation.uncalibrated.items():
        context.tracker.log("not-calibrated", source=source, reason=reason)


def _data(federation: Federation) -> dict[str, object]:
    parts = {part_source(part.name): len(part.images) for part in federation.parts}
    held_out = {"test": sum(parts.values()), "parts": parts}
    return {"train": len(federation.train), **held_out, "notes": federation.notes}


def _described(info: NodeInfo) -> dict[str, object]:
    return {
        "client": info.client,
        "source": info.source,
        "train": info.num_train,
        "test": info.num_test,
        "device": info.device,
    }
