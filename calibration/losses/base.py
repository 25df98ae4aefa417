"""The contract of a training-time loss: logits and labels in, one scalar out."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Generator, Tensor

Mixed = tuple[Tensor, Tensor, float]  # images, labels mixed in, weight of the first images
T = TypeVar("T")


@dataclass(frozen=True)
class LossContext:
    """What a loss may want beyond logits and labels; only what it ``needs`` is filled.

    Attributes:
        zero_shot_logits: ``(B, K)`` logits of the frozen zero-shot model for the same images.
        text_features: ``(K, D)`` unit text features of the model in training (with gradient).
        zero_shot_text_features: ``(K, D)`` unit text features of the frozen zero-shot model.
        image_features: ``(B, D)`` unit image features of the model in training (with gradient).
        zero_shot_image_features: ``(B, D)`` unit image features of the frozen zero-shot model.
        encode_texts: n names, each put into the prompt as a class name is -> pair of ``(n, D)``
            unit features: as tuned (with gradient), frozen.
        class_names: the K class names, for losses that draw words which are no class.
        update_similarity: cosine in [-1, 1] of the local change so far to the last global change;
            0 where either is unknown or zero.
        mixed_labels: ``(B,)`` labels of the images mixed in, when the loss mixed this batch.
        mixing_weight: weight in [0, 1] of the first images in the mixed batch.
        seed: of this client's round, >= 0, for losses that draw; equal seeds give equal draws.
    """

    zero_shot_logits: Tensor | None = None
    text_features: Tensor | None = None
    zero_shot_text_features: Tensor | None = None
    image_features: Tensor | None = None
    zero_shot_image_features: Tensor | None = None
    encode_texts: Callable[[Sequence[str]], tuple[Tensor, Tensor]] | None = None
    class_names: tuple[str, ...] = ()
    update_similarity: float = 0.0
    mixed_labels: Tensor | None = None
    mixing_weight: float = 1.0
    seed: int = 0


class Loss(ABC):
    """A training-time loss; constructor arguments are what a spec string may set.

    A client makes a fresh object for every round, so an object may count its calls.

    Attributes:
        needs: names of the ``LossContext`` fields this loss reads; the trainer fills just these.
        is_penalty: True for a bare penalty, which fits no labels by itself and is meant to be
            added to a full loss (``cross_entropy + 10*dca``).
    """

    needs: frozenset[str] = frozenset()
    is_penalty: bool = False

    @property
    def name(self) -> str:
        """The class name in snake case, which is the name in a spec string."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def mixes(self) -> bool:
        """Whether ``mix`` changes batches."""
        return type(self).mix is not Loss.mix

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar loss of one batch.

        Args:
            logits: ``(B, K)``, already multiplied by CLIP's logit scale.
            labels: ``(B,)`` int64.
            context: see ``LossContext``.
        """

    def evaluate(
        self, logits: Tensor, labels: Tensor, context: LossContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the detached, unweighted value of each of its terms by name."""
        value = self(logits, labels, context)
        return value, {self.name: value.detach()}

    def mix(self, images: Tensor, labels: Tensor, generator: Generator) -> Mixed | None:
        """Mix a batch before the forward pass, or return None to leave it as it is.

        Args:
            images: ``(B, C, H, W)`` floats.
            labels: ``(B,)`` int64.
            generator: the only source of randomness.

        Returns:
            The mixed images, the labels of the images mixed in and the weight of the first ones;
            the trainer passes the last two on as ``mixed_labels`` and ``mixing_weight``.
        """
        return None

    def missing(self, context: LossContext) -> str | None:
        """Return the name of a needed context field that is empty, if any."""
        return next((name for name in sorted(self.needs) if getattr(context, name) is None), None)

    def require(self, value: T | None, field: str) -> T:
        """Return ``value``, the context's ``field``.

        Raises:
            ValueError: it is None; the message names this loss and the field.
        """
        if value is None:
            raise ValueError(f"loss {self.name!r} needs LossContext.{field}, found None")
        return value
