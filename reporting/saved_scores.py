"""What a finished run made of each image of a central part, its calibrator included."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fl2ora.calibration.predictions import Block, Scores, blocks_of_logits, scores_of
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.logits import SavedLogits
from fl2ora.reporting.saved_calibrators import load_fitted


@dataclass(frozen=True)
class SavedScores:
    """Scores of a central part's images, in their order.

    Attributes:
        labels: ``(N,)`` int64.
        final: of the run's result.
        zero_shot: of the untuned model.
    """

    labels: Tensor
    final: Scores
    zero_shot: Scores


def saved_scores(folder: Path, calibrator: str, source: str) -> SavedScores:
    """Read a run's logits, and apply its calibrator to those of its result.

    Args:
        folder: of the run.
        calibrator: spec of the run's calibrator, or ``none``.
        source: of the central part.

    Raises:
        UserError: the logits are missing or damaged; or the calibrator is, is not one of ours, or
            was not fitted for the classes of this part.
    """
    saved = SavedLogits.load(folder)
    if source not in saved.central:
        raise UserError(f"{folder.name}: no logits of {source} were saved")
    part = saved.central[source]
    zero_shot = scores_of(blocks_of_logits(part.zero_shot, part.labels))
    if calibrator == "none":
        return SavedScores(
            part.labels, scores_of(blocks_of_logits(part.logits, part.labels)), zero_shot
        )
    fitted, context = load_fitted(folder, calibrator), saved.context(part)
    try:
        log_p = fitted(part.logits, context)
    except ValueError as error:
        raise UserError(f"{calibrator!r} on {source}: {error}") from None
    block = Block(
        probabilities=log_p.exp(),
        labels=part.labels,
        predicted=fitted.predictions(part.logits, context),
        confidence=fitted.confidence(part.logits, context),
        nll=-log_p.gather(1, part.labels[:, None].to(torch.int64)).squeeze(1),
    )
    return SavedScores(part.labels, scores_of([block]), zero_shot)
