"""The contract of a training-time loss: logits and labels in, one scalar out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True)
class LossContext:
    """What a loss may want beyond logits and labels; only what it ``needs`` is filled.

    Attributes:
        zero_shot_logits: ``(B, K)`` logits of the frozen zero-shot model for the same images.
        text_features: ``(K, D)`` unit text features of the model in training (with gradient).
        zero_shot_text_features: ``(K, D)`` unit text features of the frozen zero-shot model.
        image_features: ``(B, D)`` unit image features of the model in training (with gradient).
        zero_shot_image_features: ``(B, D)`` unit image features of the frozen zero-shot model.
        encode_texts: phrases -> pair of ``(n, D)`` unit features: as tuned (with gradient), frozen.
        update_similarity: cosine in [-1, 1] of the local change so far to the last global change;
            0 where either is unknown or zero.
        mixed_labels: ``(B,)`` labels of the images mixed in, when the loss mixed this batch.
        mixing_weight: weight in [0, 1] of the first images in the mixed batch.
    """

    zero_shot_logits: Tensor | None = None
    text_features: Tensor | None = None
    zero_shot_text_features: Tensor | None = None
    image_features: Tensor | None = None
    zero_shot_image_features: Tensor | None = None
    encode_texts: Callable[[Sequence[str]], tuple[Tensor, Tensor]] | None = None
    update_similarity: float = 0.0
    mixed_labels: Tensor | None = None
    mixing_weight: float = 1.0


class Loss(ABC):
    """A training-time loss; constructor arguments are what a spec string may set.

    Attributes:
        needs: names of the ``LossContext`` fields this loss reads; the trainer fills just these.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar loss of one batch.

        Args:
            logits: ``(B, K)``, already multiplied by CLIP's logit scale.
            labels: ``(B,)`` int64.
            context: see ``LossContext``.
        """

    def missing(self, context: LossContext) -> str | None:
        """Return the name of a needed context field that is empty, if any."""
        return next((name for name in sorted(self.needs) if getattr(context, name) is None), None)
