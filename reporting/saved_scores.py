"""What a finished run made of each central test image, its calibrator included."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fl2ora.calibration.calibrators.files import DESCRIPTION, FittedCalibrator, load_calibrator
from fl2ora.calibration.predictions import Block, Scores, blocks_of_logits, scores_of
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.logits import SavedLogits

_CALIBRATORS = "calibrators"


@dataclass(frozen=True)
class SavedScores:
    """Scores of the central test images, in their order.

    Attributes:
        labels: ``(N,)`` int64.
        final: of the run's result.
        zero_shot: of the untuned model.
    """

    labels: Tensor
    final: Scores
    zero_shot: Scores


def saved_scores(folder: Path, calibrator: str) -> SavedScores:
    """Read a run's logits, and apply its calibrator to those of its result.

    Args:
        folder: of the run.
        calibrator: spec of the run's calibrator, or ``none``.

    Raises:
        UserError: the logits are missing or damaged; or the calibrator is, or is not one of ours.
    """
    saved = SavedLogits.load(folder)
    part = saved.server_test
    zero_shot = scores_of(blocks_of_logits(part.zero_shot, part.labels))
    if calibrator == "none":
        return SavedScores(
            part.labels, scores_of(blocks_of_logits(part.logits, part.labels)), zero_shot
        )
    fitted, context = _fitted(folder, calibrator), saved.context(part)
    log_p = fitted(part.logits, context)
    block = Block(
        probabilities=log_p.exp(),
        labels=part.labels,
        predicted=fitted.predictions(part.logits, context),
        confidence=fitted.confidence(part.logits, context),
        nll=-log_p.gather(1, part.labels[:, None].to(torch.int64)).squeeze(1),
    )
    return SavedScores(part.labels, scores_of([block]), zero_shot)


def _fitted(folder: Path, spec: str) -> FittedCalibrator:
    for path in sorted((folder / _CALIBRATORS).glob(f"*/{DESCRIPTION}")):
        try:
            fitted = load_calibrator(path.parent)
        except (OSError, ValueError):  # damaged, or of somebody's own
            continue
        if fitted.spec == spec:
            return fitted
    raise UserError(f"{folder / _CALIBRATORS}: expected the fitted calibrator {spec!r}")
