"""What a fitted calibrator makes of a finished run's logits, part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fl2ora.calibration.calibrated import calibrated_stats
from fl2ora.calibration.calibrators.base import Calibrator, Parameters
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.experiment.blame import blaming
from fl2ora.reporting.logits import SavedLogits, Scored

SpecOf = Callable[[int], StatsSpec]
"""Gives the sizes of the sums for a number of classes."""


@dataclass(frozen=True)
class MeasuredParts:
    """Sums of calibrated predictions.

    Attributes:
        central: of each central part by its source, but for those left out.
        clients: of each client's test images by its key.
        left_out: why a central part has none, by its source.
    """

    central: Mapping[str, CalibrationStats]
    clients: Mapping[str, CalibrationStats]
    left_out: Mapping[str, str]


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
    return MeasuredParts(central, clients, left_out)


def unfit(calibrator: Calibrator, parameters: Parameters, fitted: int, other: int) -> str:
    """Say why parameters fitted to some classes mean nothing for others; empty where they do."""
    for num_classes in (fitted + 1, other):
        try:
            calibrator.check(parameters, num_classes)
        except ValueError as error:
            return f"its parameters belong to the {fitted} classes that were tuned on: {error}"
    return ""
