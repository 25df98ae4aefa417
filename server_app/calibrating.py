"""Fitting a post-hoc calibrator after the last round, in the federation or from saved logits."""

from __future__ import annotations

from functools import partial

import torch

from fl2ora.calibration.calibrators.base import (
    CalibrationContext,
    Calibrator,
    FitState,
    Parameters,
    Sums,
)
from fl2ora.calibration.calibrators.fitting import add_sums, fit_to_the_end
from fl2ora.clip_tuning.adapter import Adapter, as_tensors
from fl2ora.experiment.blame import blaming
from fl2ora.experiment.errors import UserError
from fl2ora.messages.calibrate import CalibrateTask
from fl2ora.reporting.events import Tracker
from fl2ora.reporting.logits import SavedLogits
from fl2ora.server_app.clients import Clients


def fit_in_federation(
    calibrator: Calibrator,
    spec: str,
    clients: Clients,
    tracker: Tracker,
    adapter: Adapter,
    num_classes: int,
) -> Parameters:
    """Return parameters fitted to the clients' summed statistics, a round of messages a step.

    Args:
        calibrator: which ``spec`` names.
        spec: what the nodes construct.
        clients: the nodes.
        tracker: told of every step, and of who took part in it.
        adapter: the final one.
        num_classes: K.

    Raises:
        UserError: no client has a calibration image, or none answers.
    """
    with blaming(calibrator):
        state, steps = calibrator.start(num_classes), range(1, calibrator.max_steps + 1)
    took_part = None
    for step in steps:
        if state.done:
            break
        expected = _statistics_of_nothing(calibrator, state, num_classes)
        task = CalibrateTask(adapter, spec, state.parameters)
        refusal = partial(_refusal, calibrator, state, num_classes)
        answers = clients.calibration_sums(task, expected, refusal)
        tracker.log("calibrate", step=step, clients=list(answers))
        if not answers:
            raise UserError(f"calibrator {spec!r}: no client answered")
        with blaming(calibrator):
            if took_part not in (None, list(answers)):
                state = calibrator.restart(state)
            took_part = list(answers)
            try:
                state = calibrator.update(state, add_sums(list(answers.values())))
            except ValueError as error:
                raise UserError(f"calibrator {spec!r}: {error}") from error
    tracker.log("calibrated", calibrator=spec, converged=met_tolerance(state))
    return state.parameters


def met_tolerance(state: FitState) -> bool:
    """Return whether a fit ended because it was there, and not because its steps were spent."""
    return state.done and state.converged


def _refusal(calibrator: Calibrator, state: FitState, num_classes: int, sums: Sums) -> str:
    """Return why no images have such sums; nothing if they may."""
    with blaming(calibrator):
        try:
            calibrator.check_sums(sums, state, num_classes)
        except ValueError as error:
            return str(error)
    return ""


def _statistics_of_nothing(calibrator: Calibrator, state: FitState, num_classes: int) -> Sums:
    """Return the statistics of no images: what every answer must look like."""
    nothing = torch.zeros((0, num_classes), dtype=torch.float64)
    context = CalibrationContext(zero_shot_logits=nothing)
    labels = torch.zeros(0, dtype=torch.int64)
    with blaming(calibrator):
        return as_tensors(calibrator.statistics(nothing, labels, state, context=context))


def fit_saved(calibrator: Calibrator, saved: SavedLogits) -> FitState:
    """Return where a fit on a finished run's calibration logits ends.

    It is the federated fit, without messages.

    Raises:
        UserError: there are none, or not one image among them.
    """
    if not saved.calibration:
        raise UserError(
            "the run kept no calibration logits, because its clients' images lie on their nodes; "
            "fit in the federation instead: fl2ora run --set calibrator=..."
        )
    parts = list(saved.calibration.values())
    with blaming(calibrator):
        try:
            return fit_to_the_end(
                calibrator,
                [(part.logits, part.labels) for part in parts],
                [saved.context(part) for part in parts],
            )
        except ValueError as error:
            raise UserError(f"calibrator: {error}") from error
