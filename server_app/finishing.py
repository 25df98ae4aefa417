"""After the last round: save what training made, calibrate, and report."""

from __future__ import annotations

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.experiment.blame import blaming
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.events import EVENTS_FILE, read_lines
from fl2ora.reporting.logits import SavedLogits
from fl2ora.reporting.model_card import ADAPTER, write_model_card
from fl2ora.reporting.set_tables import write_sets
from fl2ora.reporting.tables import write_classwise, write_csv
from fl2ora.server_app.artifacts import save_exported, save_fitted, save_global
from fl2ora.server_app.calibrating import fit_in_federation
from fl2ora.server_app.outcome import Outcome, outcome_of
from fl2ora.server_app.privacy_record import save_spent
from fl2ora.server_app.rounds import Run, RunState
from fl2ora.server_app.run_plugins import RunPlugins


def finish(run: Run, state: RunState, plugins: RunPlugins) -> Outcome:
    """Save what training made before anything else, then calibrate and report.

    Raises:
        UserError: the run failed by ``outcome_of``; what there is has been saved.
    """
    context, outcome = run.context, outcome_of(state)
    save_global(context.folder, state.adapter)
    saved = context.evaluation.saved_logits()
    saved.save(context.folder)
    context.tracker.log("outcome", **described(outcome))
    try:
        save_exported(
            context.folder, context.config, plugins.method, context.classifier, state.adapter
        )
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
        hint = f"; to go on: fl2ora run --resume {context.folder}" if state.gave_up else ""
        raise UserError(f"{outcome.failure}: the reasons are under 'drop' in {events}{last}{hint}")
    return outcome


def described(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as the record has it."""
    return {"updates": outcome.updates, "asked": outcome.asked, "warning": outcome.warning}


def _calibrate(run: Run, state: RunState, calibrator: Calibrator, saved: SavedLogits) -> None:
    """Fit and measure the run's calibrator."""
    context = run.context
    config, evaluation = context.config, context.evaluation
    num_classes = saved.num_classes
    parameters = fit_in_federation(
        calibrator, config.calibrator, run.clients, context.tracker, state.adapter, num_classes
    )
    folder = save_fitted(context.folder, config.calibrator, calibrator, parameters, num_classes)
    rows = evaluation.measure_calibrated(calibrator, parameters, state.adapter, saved)
    write_sets(folder, evaluation.sets)
    for source, values in rows.items():
        context.tracker.metrics(state.round, source, values)
    for source, reason in evaluation.uncalibrated.items():
        context.tracker.log("not-calibrated", source=source, reason=reason)


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
