"""Classifiers that share everything but what is tuned, for clients that are trained together."""

from __future__ import annotations

import copy

from torch import nn

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.errors import UserError


def own_copy(classifier: ClipClassifier) -> ClipClassifier:
    """Return a classifier with parameters of its own to tune, and everything else shared.

    What it computes is of the original's parameters; ``train_jointly`` is what uses its own.
    """
    own = copy.copy(classifier)
    own.tuned = {name: nn.Parameter(value.detach().clone()) for name, value in own.tuned.items()}
    return own


def check_joint(classifier: ClipClassifier) -> None:
    """Refuse a method of which ``own_copy`` would not be enough.

    Raises:
        UserError: says what it does beside.
    """
    own, plain = type(classifier), ClipClassifier
    beside = {
        "has personal parts": bool(classifier.personal),
        "sends what no gradient trains": own.gathers or bool(classifier.carried),
        "has an objective of its own": own.extra_loss is not plain.extra_loss,
        "changes gradients": own.backward is not plain.backward,
        "trains nothing by gradients": not classifier.tuned,
    }
    if found := [what for what, so in beside.items() if so]:
        raise UserError(f"clients-per-batch: expected 1 with a method that {' and '.join(found)}")
