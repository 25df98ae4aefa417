"""Measuring an adapter: on the server where the data is there, else on the nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from fl2ora.calibration.calibrators._sets import SetCalibrator
from fl2ora.calibration.calibrators.base import Calibrator, Parameters
from fl2ora.calibration.conformal.set_sums import SetSums
from fl2ora.calibration.metrics.table import chosen_metrics, spec_for
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.messages.evaluate import PERSONAL, TEST, VALIDATION, EvaluateTask
from fl2ora.reporting.logits import SavedLogits
from fl2ora.reporting.sources import (
    CALIBRATED,
    CLIENTS_TEST,
    CLIENTS_VALIDATION,
    PERSONAL_TEST,
)
from fl2ora.server_app.client_sums import ClientSums
from fl2ora.server_app.clients import Clients
from fl2ora.server_app.held_out import HeldOut
from fl2ora.server_app.measure_saved import SpecOf, measure_saved, with_sets
from fl2ora.server_app.metrics_by_source import all_metrics, client_metrics
from fl2ora.server_app.own_evaluation import OwnEvaluation
from fl2ora.server_app.own_parts import own_parts
from fl2ora.server_app.part_models import ZERO_SHOT, PartModels
from fl2ora.server_app.scores import Scores, saved_logits, score
from fl2ora.server_app.sets_on_nodes import SetsOnNodes

Sums = Mapping[str, CalibrationStats]
Sources = dict[str, dict[str, float]]


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
        history: by round, 0 is zero-shot, the sums of each central part by its source; where there
            is none, those of all clients.
        clients: each client's sums at the last evaluation, by its key.
        own: the same of each part that nodes hold out of data of their own, by its source.
        calibrated: sums after the run's calibrator by source, if it has one.
        sets: sums over the sets of a calibrator that answers with such, by source or client.
        uncalibrated: why the run's calibrator was not applied to a source.
        class_names: of each source of ``by_source``.
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
        whole, share = self._held_out, config.eval_share
        self._sample = whole.sample(share) if share < 1 else whole
        self._nodes, self._config, self._means = clients, config, federation.means
        parts = federation.parts
        self._tuned = PartModels(classifier, config.method, config, parts)
        self._zero_shot = PartModels(zero_shot, ZERO_SHOT, config, parts)
        self._validation, self._personal_rule = validation, personal_rule
        central = self._held_out.central
        names = {source: part.class_names for source, part in central.items()}
        names[CLIENTS_TEST] = federation.class_names
        known, _ = own_parts(
            federation, federation.class_names, [*clients.infos.values()], config.label_space
        )
        self._metrics = chosen_metrics(config.metrics)
        self._own = OwnEvaluation(known, config, self.spec_of)
        names |= self._own.class_names
        self.class_names = names | {f"{source}{CALIBRATED}": n for source, n in names.items()}
        self._scores: dict[int, Scores] = {}
        self._adapter: Adapter | None = None  # last measured
        self.history: dict[int, Sums] = {}
        self.clients: Sums = {}
        self.own: dict[str, Sums] = {}
        self.calibrated: dict[str, CalibrationStats] = {}
        self.uncalibrated: Mapping[str, str] = {}
        self.sets: Mapping[str, SetSums] = {}

    @property
    def spec_of(self) -> SpecOf:
        """The sizes of the sums for so many classes."""
        return lambda classes: spec_for(self._metrics, self._config.num_bins, classes)

    @property
    def _spec(self) -> StatsSpec:
        return self.spec_of(len(self.class_names[CLIENTS_TEST]))

    def measure_zero_shot(self) -> Sources:
        """Measure the untuned model as round 0, by the same code on the same images."""
        return self._measure(0, self._zero_shot, {}, self._held_out)

    def go_on(self, past: Mapping[int, Sums]) -> None:
        """Take up the sums of an interrupted run, zero-shot's too; score zero-shot again."""
        self._scores = {0: score(0, self._held_out, self._zero_shot)}
        self.history = dict(past)

    def measure(self, number: int, adapter: Adapter, *, whole: bool = True) -> Sources:
        """Measure the adapter after a round; return the metrics of every source.

        Args:
            number: of the round.
            adapter: global.
            whole: of all that is held out on the server, not just of ``eval-share``.
        """
        self._adapter = adapter
        self._tuned.restore(adapter)
        return self._measure(
            number, self._tuned, adapter, self._held_out if whole else self._sample
        )

    def saved_logits(self) -> SavedLogits:
        """Return the logits of what is held out on the server, as last measured and zero-shot.

        Only calibration images are encoded here: all others were when they were measured.
        """
        held, start, final = self._held_out, self._scores[0], self._scores[max(self._scores)]
        tuned = self._zero_shot
        if self._adapter is not None:
            tuned = self._tuned
            tuned.restore(self._adapter)  # in one process, the nodes use the same classifier
        calibration, untuned = (
            held.calibration_logits(models.main) for models in (tuned, self._zero_shot)
        )
        return saved_logits(held, start, final, (calibration, untuned), self._means)

    def measure_calibrated(
        self, calibrator: Calibrator, parameters: Parameters, adapter: Adapter, saved: SavedLogits
    ) -> Sources:
        """Measure what the run's fitted calibrator makes of the final adapter's logits."""
        found = measure_saved(calibrator, parameters, saved, self.spec_of)
        clients, left_out, own = found.clients, dict(found.left_out), {}
        if self.on_nodes:
            left_out |= self._own.unfit(calibrator, parameters, saved.num_classes)
            spec, number = self._config.calibrator, max(1, self._config.num_rounds)
            asked = self._own.asked(left_out)
            task = EvaluateTask(adapter, number, (TEST,), spec, parameters, own=asked)
            sets = SetsOnNodes(self._nodes.infos, saved.num_classes)
            more = sets.take if isinstance(calibrator, SetCalibrator) else None
            measured = self._nodes.evaluate(task, self._spec, self._own.specs, more)
            clients, own = measured[TEST], self._own.sums(measured)
            found = replace(found, client_sets=sets.of(clients))
        self.calibrated, self.uncalibrated = self._shown(found.central, clients), left_out
        self.calibrated |= self._own.totals(own)
        self.sets = {**found.sets, **found.client_sets}
        rows = with_sets(self._all_metrics(found.central, clients, CALIBRATED), found)
        return rows | self._own.rows(own, CALIBRATED)

    def by_source(self) -> dict[tuple[int, str], CalibrationStats]:
        """Return the pooled sums at hand by round and source."""
        last = max(self.history)
        found = {
            (number, source): stats
            for number, sums in self.history.items()
            for source, stats in sums.items()
        }
        if self.clients:
            found[last, CLIENTS_TEST] = self._pooled(self.clients)
        found |= {(last, s): stats for s, stats in self._own.totals(self.own).items()}
        found |= {(last, f"{s}{CALIBRATED}"): stats for s, stats in self.calibrated.items()}
        return found

    def panels(self) -> dict[str, dict[str, CalibrationStats]]:
        """Return the sums of each source before and after, by the names plots show."""
        first, last = min(self.history), max(self.history)
        shown = {}
        for source, stats in self.history[last].items():
            panels = {"zero-shot": self.history[first].get(source, stats)}
            if last > first:
                panels[f"round {last}"] = stats
            if source in self.calibrated:
                panels[self._config.calibrator.partition("(")[0]] = self.calibrated[source]
            shown[source] = panels
        return shown

    def _measure(self, number: int, models: PartModels, adapter: Adapter, held: HeldOut) -> Sources:
        scores = score(number, held, models)
        # Of the rounds, zero-shot and the latest are kept.
        self._scores = {n: known for n, known in self._scores.items() if n == 0}
        self._scores[number] = scores
        found = dict(self._on_nodes(number, models.main, adapter))
        central = {
            source: self._sums(rows, held.central[source].images)
            for source, rows in scores.central.items()
        }
        if not self.on_nodes:
            found[TEST] = self._each(scores.test, held.test)
            if self._validation:
                rows = held.calibration_logits(models.main)
                found[VALIDATION] = self._each(rows, held.calibration)
        self.clients, self.own = found[TEST], self._own.sums(found)
        self.history[number] = self._shown(central, self.clients)
        return self._sources(central, found)

    def _shown(self, central: Sums, clients: Sums) -> dict[str, CalibrationStats]:
        """Return what stands for the run: the central parts, else all clients together."""
        return dict(central) or {CLIENTS_TEST: self._pooled(clients)}

    def _pooled(self, clients: Sums) -> CalibrationStats:
        return sum(clients.values(), start=CalibrationStats.zero(self._spec))

    def _all_metrics(self, central: Sums, clients: Sums, suffix: str = "") -> Sources:
        draws, metrics = self._config.resamples, self._metrics
        return all_metrics(central, clients, draws, suffix, metrics, self._means)

    def _sources(self, central: Sums, found: Mapping[str, Sums]) -> Sources:
        sources = self._all_metrics(central, found[TEST])
        draws, metrics = self._config.resamples, self._metrics
        for part, source in ((PERSONAL, PERSONAL_TEST), (VALIDATION, CLIENTS_VALIDATION)):
            sources |= client_metrics(found.get(part, {}), draws, source, metrics)
        return sources | self._own.rows(self.own)

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
        task = EvaluateTask(adapter, number, parts, rule=rule, own=self._own.asked())
        return self._nodes.evaluate(task, self._spec, self._own.specs)

    def _each(self, logits: Mapping[str, Tensor], data: Mapping[str, LabelledImages]) -> Sums:
        return ClientSums(logits, data, self._spec)

    def _sums(self, logits: Tensor, data: LabelledImages) -> CalibrationStats:
        return CalibrationStats.from_logits(logits, data.labels, self.spec_of(logits.shape[1]))
