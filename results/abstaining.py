"""The confidence from which on a run's classifier answers, chosen on what the run held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fl2ora.calibration.abstention import Abstention, abstention_for, abstentions
from fl2ora.calibration.binning import Floats
from fl2ora.calibration.calibrators.files import FittedCalibrator
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.logits import SavedLogits, Scored

RISK = 0.05
"""Probability that the answers are less often right than promised."""


@dataclass(frozen=True)
class ChosenThreshold:
    """A threshold, and where it comes from.

    Attributes:
        threshold: see ``Abstention``.
        images: how many it was chosen on.
        data: which these are.
    """

    threshold: Abstention
    images: int
    data: str


def choose_threshold(
    run: Path, calibrator: FittedCalibrator | None, accuracy: float
) -> ChosenThreshold:
    """Return from which confidence on answers are right as often as wanted.

    Of a run's held-out images, the first of these that there are: a central part with the classes
    tuned on; the clients' test images; their calibration images, to which a calibrator was fitted
    too, so that the promise is a little weaker there.

    Args:
        run: its folder.
        calibrator: which confidences are of; None: of the softmax.
        accuracy: that is wanted, in (0, 1).

    Raises:
        UserError: there are no such images, or no threshold can be shown to do.
    """
    saved = SavedLogits.load(run)
    data, parts = _held_out(saved)
    if not parts:
        raise UserError(
            f"accuracy: expected a run that kept logits of held-out images of the classes tuned "
            f"on, found none in {run}; give the confidence itself"
        )
    confidence, correct = _scores(saved, parts, calibrator)
    found = abstention_for(confidence, correct, accuracy, risk=RISK)
    if found is None:
        best = max(abstentions(confidence, correct, risk=RISK), key=lambda a: a.at_least)
        raise UserError(
            f"accuracy: expected at most {best.at_least:.4f}, which is all that the "
            f"{len(confidence)} images of {data} can show, found {accuracy}"
        )
    return ChosenThreshold(found, len(confidence), data)


def _held_out(saved: SavedLogits) -> tuple[str, list[Scored]]:
    for source, part in saved.central.items():
        if not part.of_other_classes:
            return source, [part]
    for data, parts in (
        ("the clients' test images", saved.test),
        ("the clients' calibration images", saved.calibration),
    ):
        if any(len(part.labels) for part in parts.values()):
            return data, [part for part in parts.values() if len(part.labels)]
    return "", []


def _scores(
    saved: SavedLogits, parts: Sequence[Scored], fitted: FittedCalibrator | None
) -> tuple[Floats, Floats]:
    confidences, corrects = [], []
    for part in parts:
        if fitted is None:
            confidence, predicted = part.logits.double().softmax(dim=1).max(dim=1)
        else:
            context = saved.context(part)
            try:
                predicted = fitted.predictions(part.logits, context)
                confidence = fitted.confidence(part.logits, context)
            except ValueError as error:
                raise UserError(f"calibrator {fitted.spec!r}: {error}") from None
        confidences.append(confidence.numpy())
        corrects.append((predicted == part.labels).double().numpy())
    return np.concatenate(confidences), np.concatenate(corrects)
