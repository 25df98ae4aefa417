"""Which compression of updates a run has, and whether it goes with strategy and method."""

from __future__ import annotations

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.compression.base import Compression


def build_compression(text: str, strategy: Strategy | None = None) -> Compression | None:
    """Return the compression a run config names; None for ``none``.

    Args:
        text: spec.
        strategy: of the run; None: it is not looked at.

    Raises:
        UserError: unknown name or arguments that do not fit; or one that holds changes back where
            they cannot be added to later ones.
    """
    if text == "none":
        return None
    compression = load(text, Compression)
    if strategy is not None and not strategy.allows_feedback:
        _refuse_feedback(compression, text, f"strategy {strategy.spec_name!r}, under which")
    return compression


def check_compressed(config: RunConfig, classifier: ClipClassifier) -> None:
    """Refuse to hold back parts of what a method gathers afresh in every round.

    Raises:
        UserError: see above.
    """
    compression = build_compression(config.compression)
    if compression is not None and classifier.gathers:
        _refuse_feedback(compression, config.compression, f"method {config.method!r}, of which")


def _refuse_feedback(compression: Compression, text: str, whose: str) -> None:
    if compression.feedback:
        raise UserError(
            f"expected one without feedback, such as fp16 or int8(feedback=False), "
            f"with {whose} a client's change cannot make up for what it held back before, found "
            f"{text!r}"
        )
