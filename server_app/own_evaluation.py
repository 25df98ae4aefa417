"""What nodes with data of their own measure of the test images they bring."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fl2ora.calibration.calibrators.base import Calibrator, Parameters
from fl2ora.calibration.metrics.table import chosen_metrics
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.protocols.base import Protocol
from fl2ora.messages.own_parts import own_key
from fl2ora.reporting.sources import NODES_TEST, part_source
from fl2ora.server_app.measure_saved import SpecOf, unfit
from fl2ora.server_app.metrics_by_source import client_metrics, rows_of_means
from fl2ora.server_app.own_parts import OwnPart

Sums = Mapping[str, CalibrationStats]


class OwnEvaluation:
    """Asks for the sums of the nodes' own parts, and makes metrics of them.

    Args:
        parts: those of the run by name.
        config: of the run.
        spec_of: sizes of the sums for a number of classes.

    Attributes:
        class_names: of each part by its source.
    """

    def __init__(self, parts: Mapping[str, OwnPart], config: RunConfig, spec_of: SpecOf) -> None:
        self._parts = {name: part for name, part in parts.items() if any(part.images.values())}
        self._config, self._spec_of = config, spec_of
        self._means = load(config.protocol, Protocol).own_means(tuple(self._parts))
        self.class_names = {
            part_source(name, NODES_TEST): part.class_names for name, part in self._parts.items()
        }

    def asked(self, left_out: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
        """Return what ``EvaluateTask.own`` holds, without the sources that are left out."""
        return {
            name: part.class_names if part.other else ()
            for name, part in self._parts.items()
            if part_source(name, NODES_TEST) not in left_out
        }

    @property
    def specs(self) -> dict[str, StatsSpec]:
        """The sizes of each part's sums by its name."""
        return {name: self._spec_of(len(part.class_names)) for name, part in self._parts.items()}

    def unfit(
        self, calibrator: Calibrator, parameters: Parameters, num_classes: int
    ) -> dict[str, str]:
        """Say why a calibrator fitted to so many classes is not applied, by source."""
        reasons = {
            part_source(name, NODES_TEST): unfit(
                calibrator, parameters, num_classes, len(part.class_names)
            )
            for name, part in self._parts.items()
            if part.other
        }
        return {source: reason for source, reason in reasons.items() if reason}

    def sums(self, found: Mapping[str, Sums]) -> dict[str, Sums]:
        """Return each client's sums by source, of what the nodes answered."""
        keys = {part_source(name, NODES_TEST): own_key(name) for name in self._parts}
        return {source: found[key] for source, key in keys.items() if found.get(key)}

    def totals(self, own: Mapping[str, Sums]) -> dict[str, CalibrationStats]:
        """Return the sums of all clients together, by source."""
        return {
            source: sum(sums.values(), start=CalibrationStats.zero(self._spec(source)))
            for source, sums in own.items()
        }

    def rows(self, own: Mapping[str, Sums], suffix: str = "") -> dict[str, dict[str, float]]:
        """Return the metrics of each part, how they spread over the clients, and means of parts.

        Args:
            own: what ``sums`` returned.
            suffix: ends every source's name.
        """
        metrics = chosen_metrics(self._config.metrics)
        rows: dict[str, dict[str, float]] = {}
        for source, sums in own.items():
            rows |= client_metrics(sums, self._config.resamples, source, metrics)
        rows |= rows_of_means(rows, self._means, NODES_TEST, metrics)
        return {f"{source}{suffix}": values for source, values in rows.items()}

    def _spec(self, source: str) -> StatsSpec:
        return self._spec_of(len(self.class_names[source]))
