"""What a model makes of the held-out images that lie with the server, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from fl2ora.clip_tuning.prediction import class_features
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import PartMean
from fl2ora.reporting.logits import SavedLogits, Scored
from fl2ora.server_app.held_out import HeldOut
from fl2ora.server_app.part_models import PartModels, classes_of


@dataclass(frozen=True)
class Scores:
    """One model's logits of what lies with the server, and its ``(K, D)`` class features.

    Attributes:
        central: of each central part by its source.
        test: of each client's test images by its key.
        classes: features of the training classes.
        others: of the classes of central parts with other ones, by source.
    """

    central: Mapping[str, Tensor]
    test: Mapping[str, Tensor]
    classes: Tensor
    others: Mapping[str, Tensor]


def score(number: int, held: HeldOut, models: PartModels) -> Scores:
    """Return what the model after a round makes of the test images.

    Raises:
        UserError: logits that are not finite.
    """
    central, test = held.test_logits(models)
    _refuse_diverged(number, [*central.values(), *test.values()])
    main = classes_of(models.main)
    others = {
        source: class_features(models.of(classes_of(part)))
        for source, part in held.central.items()
        if classes_of(part) != main
    }
    return Scores(central, test, class_features(models.main), others)


def saved_logits(
    held: HeldOut,
    start: Scores,
    final: Scores,
    calibration: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    means: Sequence[PartMean],
) -> SavedLogits:
    """Return what is kept with a run.

    Args:
        held: the images.
        start: what zero-shot CLIP makes of them.
        final: what the final model does.
        calibration: of each client's calibration images, by the final model and by zero-shot CLIP.
        means: over central parts.
    """
    central = {
        source: Scored(
            final.central[source],
            part.images.labels,
            start.central[source],
            final.others.get(source),
            start.others.get(source),
        )
        for source, part in held.central.items()
    }
    return SavedLogits(
        central,
        _scored(held.test, final.test, start.test),
        _scored(held.calibration, *calibration),
        final.classes,
        start.classes,
        tuple({**asdict(mean), "parts": list(mean.parts)} for mean in means),
    )


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
