"""What a fitted calibrator makes of a finished run's logits, part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fl2ora.calibration.calibrated import calibrated_stats
from fl2ora.calibration.calibrators._sets import SetCalibrator
from fl2ora.calibration.calibrators.base import Calibrator, Parameters
from fl2ora.calibration.conformal.set_sums import SetSums, over_clients
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.experiment.blame import blaming
from fl2ora.reporting.logits import SavedLogits, Scored
from fl2ora.reporting.sources import CALIBRATED, CLIENTS_TEST

SpecOf = Callable[[int], StatsSpec]
"""Gives the sizes of the sums for a number of classes."""


@dataclass(frozen=True)
class MeasuredParts:
    """Sums of calibrated predictions.

    Attributes:
        central: of each central part by its source, but for those left out.
        clients: of each client's test images by its key.
        left_out: why a central part has none, by its source.
        sets: sums over the sets of a calibrator that answers with such, of each central part by its
            source; else empty.
        client_sets: likewise, of each client's test images by its key.
    """

    central: Mapping[str, CalibrationStats]
    clients: Mapping[str, CalibrationStats]
    left_out: Mapping[str, str]
    sets: Mapping[str, SetSums] = field(default_factory=dict)
    client_sets: Mapping[str, SetSums] = field(default_factory=dict)

    def set_metrics(self, suffix: str = CALIBRATED) -> dict[str, dict[str, float]]:
        """Return coverage and size of sets by source: pooled, and how they spread over clients.

        Args:
            suffix: ends every source's name.
        """
        found = {source: sums.metrics() for source, sums in self.sets.items()}
        clients = [sums for sums in self.client_sets.values() if sums.count]
        if clients:
            found[CLIENTS_TEST] = sum(clients, start=SetSums()).metrics()
            spread = over_clients(clients)
            found |= {f"{CLIENTS_TEST}-{kind}": values for kind, values in spread.items()}
        return {source + suffix: values for source, values in found.items()}


def measure_saved(
    calibrator: Calibrator, parameters: Parameters, saved: SavedLogits, spec_of: SpecOf
) -> MeasuredParts:
    """Apply a calibrator that was fitted to the classes tuned on, wherever it makes sense.

    To a part with other classes it does only if its parameters belong to no class in particular,
    as a temperature.
    """

    def sums(part: Scored) -> CalibrationStats:
        spec, context = spec_of(part.num_classes), saved.context(part)
        with blaming(calibrator):
            return calibrated_stats(calibrator, parameters, part.logits, part.labels, spec, context)

    reasons = {
        source: unfit(calibrator, parameters, saved.num_classes, part.num_classes)
        for source, part in saved.central.items()
        if part.of_other_classes
    }
    left_out = {source: reason for source, reason in reasons.items() if reason}
    central = {s: sums(part) for s, part in saved.central.items() if s not in left_out}
    clients = {client: sums(part) for client, part in saved.test.items()}
    if not isinstance(calibrator, SetCalibrator):
        return MeasuredParts(central, clients, left_out)

    def sets(part: Scored) -> SetSums:
        with blaming(calibrator):
            return SetSums.of(calibrator.sets(part.logits, dict(parameters)), part.labels)

    return MeasuredParts(
        central,
        clients,
        left_out,
        {source: sets(saved.central[source]) for source in central},
        {client: sets(part) for client, part in saved.test.items()},
    )


def with_sets(
    rows: Mapping[str, Mapping[str, float]], measured: MeasuredParts
) -> dict[str, dict[str, float]]:
    """Return rows of metrics by source, those of sets beside those of their calibrated sources."""
    found = {source: dict(values) for source, values in rows.items()}
    for source, values in measured.set_metrics().items():
        found[source] = {**found.get(source, {}), **values}
    return found


def unfit(calibrator: Calibrator, parameters: Parameters, fitted: int, other: int) -> str:
    """Say why parameters fitted to some classes mean nothing for others; empty where they do."""
    for num_classes in (fitted + 1, other):
        try:
            calibrator.check(parameters, num_classes)
        except ValueError as error:
            return f"its parameters belong to the {fitted} classes that were tuned on: {error}"
    return ""
