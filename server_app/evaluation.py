"""Measuring an adapter: on the server where the data is there, else on the nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl2ora.calibration.calibrated import calibrated_stats
from fl2ora.calibration.calibrators.base import Calibrator, Parameters
from fl2ora.calibration.metrics.table import chosen_metrics, spec_for
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.messages.evaluate import PERSONAL, TEST, VALIDATION, EvaluateTask
from fl2ora.reporting.logits import SavedLogits, Scored
from fl2ora.reporting.tables import CALIBRATED
from fl2ora.server_app.clients import Clients
from fl2ora.server_app.held_out import HeldOut
from fl2ora.server_app.metrics_by_source import (
    CLIENTS_TEST,
    CLIENTS_VALIDATION,
    PERSONAL_TEST,
    SERVER_TEST,
    all_metrics,
    client_metrics,
)

Sums = Mapping[str, CalibrationStats]
Sources = dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Scores:
    """One model's logits of what lies with the server, and its ``(K, D)`` class features."""

    central: Tensor
    test: Mapping[str, Tensor]
    classes: Tensor


class Evaluation:
    """Measures adapters, and keeps the logits of what lies with the server.

    Args:
        clients: the nodes.
        config: of the run.
        federation: the server's data.
        classifier: on its device; its tuned parameters are overwritten by each ``measure``.
        zero_shot: the untuned model.
        validation: measure the clients' calibration images too, for whoever chooses by them.
        personal_rule: of the strategy; see there.

    Attributes:
        history: the central test set's sums by round; 0 is zero-shot.
        clients: each client's sums at the last evaluation, by its key.
        calibrated: the central test set's sums after the run's calibrator, if it has one.
        class_names: of the central test set.
        on_nodes: the clients' images are measured where they lie.

    Raises:
        UserError: ``evaluate-on`` is ``server`` and a node has data of its own.
    """

    def __init__(
        self,
        clients: Clients,
        config: RunConfig,
        federation: Federation,
        classifier: ClipClassifier,
        zero_shot: ClipClassifier,
        *,
        validation: bool = False,
        personal_rule: str = "",
    ) -> None:
        own = [key for key, info in clients.infos.items() if info.source == "own"]
        if own and config.evaluate_on == "server":
            raise UserError(
                f"evaluate-on: 'server' cannot be, clients {', '.join(own)} have data of their own"
            )
        self.on_nodes = bool(own) or config.evaluate_on == "nodes"
        self._held_out = HeldOut(config, federation, {} if self.on_nodes else clients.infos)
        self._nodes, self._config = clients, config
        self._classifier, self._zero_shot = classifier, zero_shot
        self._validation, self._personal_rule = validation, personal_rule
        self.class_names = federation.class_names
        self._metrics = chosen_metrics(config.metrics)
        self._spec = spec_for(self._metrics, config.num_bins, len(self.class_names))
        self._scores: dict[int, _Scores] = {}
        self._adapter: Adapter | None = None  # last measured
        self.history: dict[int, CalibrationStats] = {}
        self.clients: Sums = {}
        self.calibrated: CalibrationStats | None = None

    def measure_zero_shot(self) -> Sources:
        """Measure the untuned model as round 0, by the same code on the same images."""
        return self._measure(0, self._zero_shot, {})

    def go_on(self, past: Mapping[int, CalibrationStats]) -> None:
        """Take up the central test set's sums of an interrupted run, and score zero-shot again."""
        central, test = self._held_out.test_logits(self._zero_shot)
        self._scores = {0: _Scores(central, test, _class_features(self._zero_shot))}
        self.history = {0: self._sums(central, self._held_out.central), **past}

    def measure(self, number: int, adapter: Adapter) -> Sources:
        """Measure the adapter after a round; return the metrics of every source."""
        self._adapter = adapter
        self._classifier.restore(adapter)
        return self._measure(number, self._classifier, adapter)

    def saved_logits(self) -> SavedLogits:
        """Return the logits of what is held out on the server, as last measured and zero-shot.

        Only calibration images are encoded here: all others were when they were measured.
        """
        held, start, final = self._held_out, self._scores[0], self._scores[max(self._scores)]
        tuned = self._zero_shot
        if self._adapter is not None:
            tuned = self._classifier
            tuned.restore(self._adapter)  # in one process, the nodes use the same classifier
        calibration, untuned = (
            held.calibration_logits(model) for model in (tuned, self._zero_shot)
        )
        return SavedLogits(
            Scored(final.central, held.central.labels, start.central),
            _scored(held.test, final.test, start.test),
            _scored(held.calibration, calibration, untuned),
            final.classes,
            start.classes,
        )

    def measure_calibrated(
        self, calibrator: Calibrator, parameters: Parameters, adapter: Adapter, saved: SavedLogits
    ) -> Sources:
        """Measure what the run's fitted calibrator makes of the final adapter's logits."""
        central, clients = measure_saved(calibrator, parameters, saved, self._spec)
        if self.on_nodes:
            spec, number = self._config.calibrator, max(1, self._config.num_rounds)
            task = EvaluateTask(adapter, number, (TEST,), spec, parameters)
            clients = self._nodes.evaluate(task, self._spec)[TEST]
        self.calibrated = central
        return all_metrics(central, clients, self._config.resamples, CALIBRATED, self._metrics)

    def by_source(self) -> dict[tuple[int, str], CalibrationStats]:
        """Return the pooled sums at hand by round and source."""
        last = max(self.history)
        found = {(number, SERVER_TEST): stats for number, stats in self.history.items()}
        if self.clients:
            nothing = CalibrationStats.zero(self._spec)
            found[last, CLIENTS_TEST] = sum(self.clients.values(), start=nothing)
        if self.calibrated is not None:
            found[last, SERVER_TEST + CALIBRATED] = self.calibrated
        return found

    def panels(self) -> dict[str, CalibrationStats]:
        """Return the central test set's sums before and after, by the names plots show."""
        first, last = min(self.history), max(self.history)
        panels = {"zero-shot": self.history[first]}
        if last > first:
            panels[f"round {last}"] = self.history[last]
        if self.calibrated is not None:
            panels[self._config.calibrator.partition("(")[0]] = self.calibrated
        return panels

    def _measure(self, number: int, classifier: ClipClassifier, adapter: Adapter) -> Sources:
        central, test = self._held_out.test_logits(classifier)
        _refuse_diverged(number, [central, *test.values()])
        # Of the rounds, zero-shot and the latest are kept.
        self._scores = {n: scores for n, scores in self._scores.items() if n == 0}
        self._scores[number] = _Scores(central, test, _class_features(classifier))
        found = dict(self._on_nodes(number, classifier, adapter))
        self.history[number] = self._sums(central, self._held_out.central)
        if not self.on_nodes:
            found[TEST] = self._each(test, self._held_out.test)
            if self._validation:
                logits = self._held_out.calibration_logits(classifier)
                found[VALIDATION] = self._each(logits, self._held_out.calibration)
        self.clients = found[TEST]
        return self._sources(self.history[number], found)

    def _sources(self, central: CalibrationStats, found: Mapping[str, Sums]) -> Sources:
        draws, metrics = self._config.resamples, self._metrics
        sources = all_metrics(central, found[TEST], draws, metrics=metrics)
        for part, source in ((PERSONAL, PERSONAL_TEST), (VALIDATION, CLIENTS_VALIDATION)):
            sources |= client_metrics(found.get(part, {}), draws, source, metrics)
        return sources

    def _on_nodes(
        self, number: int, classifier: ClipClassifier, adapter: Adapter
    ) -> Mapping[str, Sums]:
        """Let the nodes measure what only they can; nothing where that is nothing."""
        rule = self._personal_rule if number else ""  # zero-shot CLIP is nobody's own
        wanted = {
            TEST: self.on_nodes,
            VALIDATION: self.on_nodes and self._validation,
            PERSONAL: bool(classifier.personal) or bool(rule),
        }
        parts = tuple(part for part, is_wanted in wanted.items() if is_wanted)
        if not parts:
            return {}
        return self._nodes.evaluate(EvaluateTask(adapter, number, parts, rule=rule), self._spec)

    def _each(self, logits: Mapping[str, Tensor], data: Mapping[str, LabelledImages]) -> Sums:
        return {client: self._sums(rows, data[client]) for client, rows in logits.items()}

    def _sums(self, logits: Tensor, data: LabelledImages) -> CalibrationStats:
        return CalibrationStats.from_logits(logits, data.labels, self._spec)


def measure_saved(
    calibrator: Calibrator, parameters: Parameters, saved: SavedLogits, spec: StatsSpec
) -> tuple[CalibrationStats, Sums]:
    """Return the calibrated sums of the central test set, and of each client's test images."""

    def sums(part: Scored) -> CalibrationStats:
        context = saved.context(part)
        return calibrated_stats(calibrator, parameters, part.logits, part.labels, spec, context)

    clients = {client: sums(part) for client, part in saved.test.items()}
    return sums(saved.server_test), clients


def _scored(
    data: Mapping[str, LabelledImages], logits: Mapping[str, Tensor], untuned: Mapping[str, Tensor]
) -> dict[str, Scored]:
    return {
        client: Scored(logits[client], data[client].labels, untuned[client]) for client in logits
    }


def _refuse_diverged(number: int, logits: Sequence[Tensor]) -> None:
    bad = sum(int((~torch.isfinite(rows)).any(dim=1).sum()) for rows in logits)
    if bad:
        model = f"the global model after round {number}" if number else "the model"
        raise UserError(
            f"{model} gives {bad} of {sum(map(len, logits))} held-out images logits that are not "
            "finite: what is tuned has grown beyond what the model can compute with; a smaller "
            "learning rate, server step or noise may help"
        )


@torch.inference_mode()
def _class_features(classifier: ClipClassifier) -> Tensor:
    return classifier.pooled_classes(classifier.encode_classes()).float().cpu().clone()
