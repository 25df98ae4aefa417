"""Settings of training that a method, a loss or an engine cannot work with."""

from __future__ import annotations

from fl2ora.calibration.losses.base import Loss
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.own_copy import check_joint
from fl2ora.experiment.blame import blaming
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.experiment.spec import parse_sum


def check_engine(config: RunConfig, clients_per_batch: int = 1) -> None:
    """Refuse clients in one batch where the engine computes them one by one.

    Args:
        config: of the run.
        clients_per_batch: of the engine.

    Raises:
        UserError: the run wants more, or fewer.
    """
    if config.clients_per_batch != clients_per_batch:
        raise UserError(
            "clients-per-batch: expected 1 unless nodes are in the process of the server, as by "
            f"`fl2ora run --engine in-process`, found {config.clients_per_batch}"
        )


def check_fitness(config: RunConfig, classifier: ClipClassifier) -> None:
    """Refuse settings that the run's method or loss cannot work with.

    Raises:
        UserError: the first of them.
    """
    check_views(config, classifier)
    check_precision(config, classifier)
    if config.clients_per_batch > 1:
        check_joint(classifier)


def check_views(config: RunConfig, classifier: ClipClassifier) -> None:
    """Refuse fixed views where nothing of them could be kept.

    Raises:
        UserError: the method has no image prefix, or the loss mixes images.
    """
    mixes = False
    for _, spec in parse_sum(config.loss):
        with blaming(term := load(spec, Loss)):
            mixes |= term.mixes
    for key, found, fits in (
        ("method", config.method, classifier.image_prefix is not None),
        ("loss", config.loss, not mixes),
    ):
        if config.fixed_views and not fits:
            raise UserError(
                f"fixed-views: expected 0 with {key} = {found!r}, which leaves nothing of a view "
                f"to keep, found {config.fixed_views}"
            )


def check_precision(config: RunConfig, classifier: ClipClassifier) -> None:
    """Refuse scaled gradients where a method changes gradients itself.

    Raises:
        UserError: it does.
    """
    if config.precision == "float16" and type(classifier).backward is not ClipClassifier.backward:
        raise UserError(
            f"precision: expected float32, tf32 or bfloat16 with method = {config.method!r}, which "
            "changes gradients itself, found float16"
        )
