"""One run from its configuration to what it leaves behind."""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.serverapp import Grid

from fl2ora.clip_tuning.adapter import Adapter, AdapterError, check_like
from fl2ora.clip_tuning.build import zero_shot_classifier
from fl2ora.clip_tuning.learning_rates import learning_rate_for
from fl2ora.clip_tuning.processor import use_processor
from fl2ora.experiment.blame import blaming
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import RunInterruptedError, UserError
from fl2ora.messages.evaluate import VALIDATION
from fl2ora.reporting.events import JsonLines
from fl2ora.reporting.rewinding import RESUMED
from fl2ora.server_app.callbacks.base import RunContext
from fl2ora.server_app.checkpoint import Checkpoint
from fl2ora.server_app.checkpoints import Checkpoints
from fl2ora.server_app.evaluation import Evaluation
from fl2ora.server_app.finishing import described, finish
from fl2ora.server_app.local_work import local_work
from fl2ora.server_app.meeting import Met, meet
from fl2ora.server_app.privacy_record import spent_before
from fl2ora.server_app.resuming import Past, opened, refuse_other_clients
from fl2ora.server_app.round_loop import is_over, run_rounds
from fl2ora.server_app.rounds import Run, RunState, rows_of
from fl2ora.server_app.run_log import LoggedRecord
from fl2ora.server_app.run_plugins import RunPlugins, build_plugins
from fl2ora.server_app.stopping import asked_to_end
from fl2ora.strategies.base import RunInfo

logger = logging.getLogger(__name__)


def run_experiment(grid: Grid, config: RunConfig, run_id: int) -> Path:
    """Run one federated experiment and return its directory.

    Raises:
        UserError: a mistake in the configuration, the data or the nodes, before anything was
            trained; or a run that failed by ``outcome_of``, of which everything is saved.
        RunInterruptedError: it was asked to end, and can go on by ``resume``.
    """
    plugins = build_plugins(config)
    with (
        opened(config, run_id) as (folder, past),
        LoggedRecord(folder, config.num_rounds) as tracker,
    ):
        try:
            use_processor(config.threads)
            run, state = _begin(grid, config, plugins, folder, tracker, past)
            state = _rounds(run, state)
            outcome = finish(run, state, plugins)
        except RunInterruptedError as error:
            tracker.log("interrupted", message=str(error))
            raise
        except BaseException as error:
            kind = type(error).__name__
            tracker.log("failed", kind=kind, message=str(error) or f"interrupted by {kind}")
            raise
        tracker.log("finished", **described(outcome))
    return folder


def _begin(
    grid: Grid,
    config: RunConfig,
    plugins: RunPlugins,
    folder: Path,
    tracker: JsonLines,
    past: Past | None,
) -> tuple[Run, RunState]:
    """Load model and data, meet the nodes; return what the next round starts from."""
    if past is not None:
        _say_resumed(tracker, past)
    rate = learning_rate_for(config.method, config.model, config.optimiser, config.learning_rate)
    tracker.log("start", config=config.flat(), learning_rate=rate)
    checkpoints = Checkpoints(folder, config.checkpoint_every, tracker, past)
    met = meet(grid, config, tracker, lambda: checkpoints.lineage)
    adapter = met.classifier.export()
    met.clients.begin(adapter)
    _begin_strategy(config, plugins, met, adapter)
    evaluation = _evaluation(config, plugins, met)
    context = RunContext(config, folder, tracker, met.classifier, evaluation)
    for callback in plugins.callbacks:
        with blaming(callback):
            callback.on_start(context)
    run = Run(context, met.clients, plugins.strategy, plugins.callbacks, checkpoints)
    if past is not None and past.checkpoint is not None:
        return run, _take_up(run, past, past.checkpoint)
    with blaming(plugins.strategy):
        plugins.strategy.lost_rounds(() if past is None else past.lost)
    rows = evaluation.measure_zero_shot()
    for source, values in rows.items():
        tracker.metrics(0, source, values)
    return run, RunState(0, adapter, history=rows_of(0, rows))


def _begin_strategy(config: RunConfig, plugins: RunPlugins, met: Met, adapter: Adapter) -> None:
    clients, spent = met.clients, spent_before(plugins.method, plugins.strategy)
    with blaming(plugins.strategy):
        work = local_work(config, clients.infos)
        plugins.strategy.begin(RunInfo(clients.keys, adapter, clients.ranks, work, spent))


def _evaluation(config: RunConfig, plugins: RunPlugins, met: Met) -> Evaluation:
    federation, device = met.federation, met.classifier.clip.device
    zero_shot = zero_shot_classifier(
        config.model, federation.class_names, federation.templates, device
    )
    wanted = frozenset().union(*(callback.parts for callback in plugins.callbacks))
    return Evaluation(
        met.clients, config, federation, met.classifier, zero_shot,
        validation=VALIDATION in wanted, personal_rule=plugins.strategy.personal_rule,
    )  # fmt: skip


def _say_resumed(tracker: JsonLines, past: Past) -> None:
    for problem in past.damaged:
        logger.warning("Passed over: %s", problem)
    tracker.log(
        RESUMED,
        round=past.round,
        lost_rounds=len(past.lost),
        changed=past.changed,
        damaged=list(past.damaged),
    )


def _take_up(run: Run, past: Past, checkpoint: Checkpoint) -> RunState:
    """Go on from a checkpoint: nothing is measured again but what only memory held."""
    context, state = run.context, checkpoint.state
    sizes = {key: info.num_train for key, info in run.clients.infos.items()}
    if others := refuse_other_clients(checkpoint, sizes, context.config):
        context.tracker.log("other-clients", **others)
    _refuse_other_parts(run, state)
    run.load(state)
    with blaming(run.strategy):
        run.strategy.lost_rounds(past.lost)
    context.evaluation.go_on(checkpoint.sums)
    if is_over(state, context.config.num_rounds):
        context.evaluation.measure(state.round, state.adapter)
    return state


def _refuse_other_parts(run: Run, state: RunState) -> None:
    """Refuse what even force cannot put together: a method or callbacks of another shape."""
    try:
        check_like(state.adapter, run.context.classifier.export(), "the checkpoint's adapter")
    except AdapterError as error:
        raise UserError(f"method: expected the one of the checkpoint: {error}") from None
    if len(state.callbacks) != len(run.callbacks):
        raise UserError(
            f"callbacks: expected {len(state.callbacks)}, which remember something by their order "
            f"in the checkpoint, found {len(run.callbacks)}"
        )


def _rounds(run: Run, state: RunState) -> RunState:
    """Run the rounds that are left.

    Raises:
        RunInterruptedError: the process was asked to end before the last one.
    """
    folder, num_rounds = run.context.folder, run.context.config.num_rounds
    with asked_to_end(folder) as asked:
        state = run_rounds(state, run, asked)
        if is_over(state, num_rounds) or state.gave_up:
            return state
        hint = f"to go on: fl2ora run --resume {folder}"
        if not run.context.config.checkpoint_every:
            hint = "nothing was saved, since checkpoint-every is 0"
        raise RunInterruptedError(
            f"ended after round {state.round} of {num_rounds}, asked to by {asked()}; {hint}"
        )
