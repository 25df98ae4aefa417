"""Measuring an adapter after a round: on the server where the data is there, else on the nodes."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fl2ora.calibration.calibrators.base import Parameters
from fl2ora.calibration.metrics.table import chosen_metrics
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.messages.pooled import stats_of
from fl2ora.messages.receiving import receive
from fl2ora.messages.records import (
    ARRAYS,
    CALIBRATOR,
    CONFIG,
    EVALUATE,
    PARAMETERS,
    PERSONAL,
    ROUND,
)
from fl2ora.reporting.events import Tracker
from fl2ora.reporting.logits import SavedLogits
from fl2ora.server_app.handshake import Peer
from fl2ora.server_app.held_out import HeldOut
from fl2ora.server_app.metrics_by_source import PERSONAL_TEST, all_metrics, client_metrics


class Evaluation:
    """Measures adapters and tells the tracker.

    Args:
        grid: where the nodes are.
        peers: the nodes.
        config: of the run.
        federation: the server's data.
        classifier: on its device; its tuned parameters are overwritten by each ``measure``.
        tracker: told of every metric.

    Attributes:
        history: the central test set's sums by round; 0 is zero-shot.
        clients: each client's sums at the last evaluation, by its key.
        metrics: what is measured.
        class_names: of the data.
        spec: sizes of all sums.
        on_nodes: the clients' images are measured where they lie.

    Raises:
        UserError: ``evaluate-on`` is ``server`` and a node has data of its own.
    """

    def __init__(
        self,
        grid: Grid,
        peers: Sequence[Peer],
        config: RunConfig,
        federation: Federation,
        classifier: ClipClassifier,
        tracker: Tracker,
    ) -> None:
        """Decide where the clients' images are measured and collect the server's."""
        own = [peer.client for peer in peers if peer.hello.source == "own"]
        if own and config.evaluate_on == "server":
            raise UserError(
                f"evaluate-on: 'server' cannot be, clients {', '.join(own)} have data of their own"
            )
        self.on_nodes = bool(own) or config.evaluate_on == "nodes"
        self._held_out = HeldOut(config, federation, [] if self.on_nodes else peers)
        self._grid = grid
        self._peers = peers
        self._config = config
        self._classifier = classifier
        self._tracker = tracker
        self.history: dict[int, CalibrationStats] = {}
        self.clients: dict[str, CalibrationStats] = {}
        self.metrics = chosen_metrics(config.metrics)
        self.class_names = federation.class_names
        self.spec = self._held_out.spec

    def measure_zero_shot(self, zero_shot: ClipClassifier) -> None:
        """Measure the untuned model as round 0, by the same code on the same images."""
        self._measure(0, zero_shot, {})

    def measure(self, server_round: int, adapter: Adapter) -> None:
        """Measure an adapter and log all its metrics."""
        self._classifier.restore(adapter)
        self._measure(server_round, self._classifier, adapter)

    def _measure(self, server_round: int, classifier: ClipClassifier, adapter: Adapter) -> None:
        central, clients = self._held_out.measure(classifier)
        personal = bool(classifier.personal)
        own: dict[str, CalibrationStats] = {}
        if self.on_nodes or personal:
            shared, own = self._ask_nodes(server_round, adapter, personal=personal)
            clients = shared if self.on_nodes else clients
        self.history[server_round] = central
        self.clients = clients
        resamples = self._config.resamples
        found = all_metrics(central, clients, resamples, metrics=self.metrics)
        found |= client_metrics(own, resamples, PERSONAL_TEST, self.metrics)
        for source, values in found.items():
            self._tracker.metrics(server_round, source, values)

    def score(self, adapter: Adapter, zero_shot: ClipClassifier) -> SavedLogits:
        """Return the logits of what is held out on the server, by the final adapter."""
        self._classifier.restore(adapter)
        return self._held_out.score(self._classifier, zero_shot)

    def ask_calibrated(
        self, adapter: Adapter, parameters: Parameters
    ) -> dict[str, CalibrationStats]:
        """Let every node measure the adapter after the run's fitted calibrator."""
        return self._ask_nodes(max(1, self._config.num_rounds), adapter, parameters)[0]

    def _ask_nodes(
        self,
        server_round: int,
        adapter: Adapter,
        parameters: Parameters | None = None,
        personal: bool = False,
    ) -> tuple[dict[str, CalibrationStats], dict[str, CalibrationStats]]:
        """Let every node measure the adapter on its own held-out images; round 0 is zero-shot.

        Args:
            server_round: counted from 1.
            adapter: global.
            parameters: of the run's calibrator, where its effect is measured.
            personal: measure each node's own model too, the adapter with what the node keeps.

        Returns:
            Each client's sums of the adapter, and of its own model if that was asked for.
        """
        names = {peer.node: peer.client for peer in self._peers}
        settings: dict[str, str | int] = {ROUND: server_round}
        content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
            ARRAYS: ArrayRecord(adapter)
        }
        if parameters is not None:
            settings[CALIBRATOR] = self._config.calibrator
            content[PARAMETERS] = ArrayRecord(dict(parameters))
        if personal:
            settings[PERSONAL] = True
        content[CONFIG] = ConfigRecord({**settings})
        questions = [
            Message(RecordDict(dict(content)), dst_node_id=node, message_type=EVALUATE)
            for node in names
        ]
        answers: dict[str, CalibrationStats] = {}
        own: dict[str, CalibrationStats] = {}
        for reply in receive(self._grid, questions, self._config.round_timeout):
            client = names.get(reply.metadata.src_node_id, str(reply.metadata.src_node_id))
            try:
                answers[client] = stats_of(reply)
                if personal:
                    own[client] = stats_of(reply, PERSONAL)
            except ValueError as error:
                self._tracker.log(
                    "drop", round=server_round, client=client, reason=f"evaluation: {error}"
                )
        for client in sorted(names.values() - answers.keys()):
            self._tracker.log("unmeasured", round=server_round, client=client)
        return answers, own
