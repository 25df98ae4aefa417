"""Fitting a post-hoc calibrator after the last round, in the federation or from saved logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fl2ora.calibration.calibrated import calibrated_stats
from fl2ora.calibration.calibrators.base import (
    CalibrationContext,
    Calibrator,
    FitState,
    Parameters,
    Sums,
    add_sums,
    fit,
)
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.clip_tuning.adapter import Adapter, AdapterError, check_finite, check_like
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.messages.receiving import receive
from fl2ora.messages.records import (
    ARRAYS,
    CALIBRATE,
    CALIBRATOR,
    CONFIG,
    PARAMETERS,
    SUMS,
)  # fmt: skip
from fl2ora.messages.replies import error_reason
from fl2ora.reporting.events import Tracker
from fl2ora.reporting.logits import SavedLogits
from fl2ora.server_app.handshake import Peer

SUFFIX = "-calibrated"


class FederatedFit:
    """Fits a calibrator from the clients' summed statistics, a round of messages a step.

    Args:
        grid: where the nodes are.
        peers: the nodes, sorted by client key.
        config: of the run; its ``calibrator`` is what the nodes construct.
        tracker: told of every step and of answers that cannot be used.
    """

    def __init__(
        self,
        grid: Grid,
        peers: Sequence[Peer],
        config: RunConfig,
        tracker: Tracker,
    ) -> None:
        self._grid = grid
        self._peers = peers
        self._config = config
        self._tracker = tracker

    def run(self, calibrator: Calibrator, adapter: Adapter, num_classes: int) -> Parameters:
        """Return the fitted parameters of ``calibrator``, which the run config names.

        Raises:
            UserError: no client has a calibration image, or none answers.
        """
        state = calibrator.start(num_classes)
        for step in range(1, calibrator.max_steps + 1):
            if state.done:
                break
            expected = _statistics_of_nothing(calibrator, state, num_classes)
            answers = self._ask(adapter, state, expected)
            self._tracker.log("calibrate", step=step, clients=len(answers))
            if not answers:
                raise UserError(f"calibrator {self._config.calibrator!r}: no client answered")
            try:
                state = calibrator.update(state, add_sums(answers))
            except ValueError as error:
                raise UserError(f"calibrator {self._config.calibrator!r}: {error}") from error
        return state.parameters

    def _ask(self, adapter: Adapter, state: FitState, expected: Sums) -> list[Sums]:
        """Return the usable answers in the order of the clients, so that sums do not vary."""
        content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
            ARRAYS: ArrayRecord(adapter),
            PARAMETERS: ArrayRecord(dict(state.parameters)),
            CONFIG: ConfigRecord({CALIBRATOR: self._config.calibrator}),
        }
        questions = [
            Message(RecordDict({**content}), dst_node_id=peer.node, message_type=CALIBRATE)
            for peer in self._peers
        ]
        names = {peer.node: peer.client for peer in self._peers}
        answers: dict[str, Sums] = {}
        for reply in receive(self._grid, questions, self._config.round_timeout):
            client = names.get(reply.metadata.src_node_id, str(reply.metadata.src_node_id))
            try:
                answers[client] = _sums(reply, expected)
            except (AdapterError, KeyError, ValueError) as error:
                reason = f"calibration: {error}"
                last = self._config.num_rounds
                self._tracker.log("drop", round=last, client=client, reason=reason)
        return [answers[peer.client] for peer in self._peers if peer.client in answers]


def _statistics_of_nothing(calibrator: Calibrator, state: FitState, num_classes: int) -> Sums:
    """Return the statistics of no images: what every answer must look like."""
    nothing = torch.zeros((0, num_classes), dtype=torch.float64)
    context = CalibrationContext(zero_shot_logits=nothing)
    labels = torch.zeros(0, dtype=torch.int64)
    return calibrator.statistics(nothing, labels, state, context=context)


def fit_saved(calibrator: Calibrator, saved: SavedLogits) -> Parameters:
    """Fit on a finished run's calibration logits: what ``FederatedFit`` does, without messages.

    Raises:
        UserError: there are none, or not one image among them.
    """
    if not saved.calibration:
        raise UserError(
            "the run kept no calibration logits, because its clients' images lie on their nodes; "
            "fit in the federation instead: fl2ora run --set calibrator=..."
        )
    parts = list(saved.calibration.values())
    try:
        return fit(
            calibrator,
            [(part.logits, part.labels) for part in parts],
            [saved.context(part) for part in parts],
        )
    except ValueError as error:
        raise UserError(f"calibrator: {error}") from error


def measure_calibrated(
    calibrator: Calibrator, parameters: Parameters, saved: SavedLogits, spec: StatsSpec
) -> tuple[CalibrationStats, dict[str, CalibrationStats]]:
    """Return the calibrated sums of the central test set, and of each client's test images."""
    parts = [saved.server_test, *saved.test.values()]
    stats = [
        calibrated_stats(
            calibrator, parameters, part.logits, part.labels, spec, saved.context(part)
        )
        for part in parts
    ]
    return stats[0], dict(zip(saved.test, stats[1:], strict=True))


def _sums(reply: Message, expected: Sums) -> Sums:
    if reply.has_error():
        raise ValueError(error_reason(reply))
    sums = dict(reply.content.array_records[SUMS].to_torch_state_dict())
    check_like(sums, expected, "sums")
    check_finite(sums, "sums")
    return sums
