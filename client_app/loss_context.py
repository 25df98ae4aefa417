"""Filling what a loss asks for beyond logits and labels; frozen features are computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fl2ora.calibration.losses.base import Loss, LossContext
from fl2ora.client_app.batches import Batch
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.factors import change_cosine
from fl2ora.clip_tuning.forward_pass import ForwardPass

_FROZEN = frozenset(
    {"zero_shot_logits", "zero_shot_text_features", "zero_shot_image_features", "encode_texts"}
)


class ZeroShotReference:
    """The frozen model's view of one client's images in one round.

    Args:
        classifier: the untuned classifier, on its device.
        table: ``(N, D)`` unit features of the client's training images; None if they are not kept.
    """

    def __init__(self, classifier: ClipClassifier, table: Tensor | None = None) -> None:
        self._classifier = classifier
        self._table = table

    @property
    def class_features(self) -> Tensor:
        """``(K, D)`` unit features of the classes."""
        return self._classifier.frozen_classes

    def known(self, rows: Tensor) -> Tensor | None:
        """Return ``(B, D)`` unit features of the images ``rows (B,)``, if they are kept."""
        if self._table is None:
            return None
        return self._table[rows].to(self._classifier.clip.device)

    def image_features(self, rows: Tensor, pixels: Tensor, changed: bool) -> Tensor:
        """Return ``(B, D)`` unit features, those that are kept where they are the same.

        Args:
            rows: ``(B,)`` which images they are.
            pixels: ``(B, 3, H, W)``, what the model saw.
            changed: by augmentation or mixing.
        """
        known = None if changed else self.known(rows)
        if known is not None:
            return known
        with torch.no_grad():
            return self._classifier.encode_images(pixels)

    def logits(self, image_features: Tensor) -> Tensor:
        """Return ``(B, K)`` zero-shot logits."""
        with torch.no_grad():
            return self._classifier.logits(image_features, self.class_features)

    def encode_names(self, names: Sequence[str]) -> Tensor:
        """Return ``(n, D)`` unit features of names put into the templates."""
        with torch.no_grad():
            return self._classifier.encode_names(names)


def reads_reference(loss: Loss) -> bool:
    """Return whether a loss wants anything of the frozen model."""
    return bool(loss.needs & _FROZEN)


class ContextFiller:
    """Makes the ``LossContext`` of each batch of one client's round.

    Args:
        loss: what is asked.
        classifier: in training, holding the received adapter.
        reference: the zero-shot reference, if the loss reads it.
        received: the adapter this round started from.
        previous: the adapter this client received when it last took part, if it did.
        seed: of this client in this round.
    """

    def __init__(
        self,
        loss: Loss,
        classifier: ClipClassifier,
        reference: ZeroShotReference | None,
        received: Adapter,
        previous: Adapter,
        seed: int,
    ) -> None:
        self._loss = loss
        self._classifier = classifier
        self._received = received
        self._previous = previous
        self._seed = seed
        self._reference = reference if reads_reference(loss) else None

    def fill(self, batch: Batch, passed: ForwardPass) -> LossContext:
        """Return the context of one batch; only what the loss needs is computed.

        Args:
            batch: what the model in training saw.
            passed: what it made of it.
        """
        classifier = self._classifier
        values: dict[str, object] = {
            "class_names": classifier.class_names,
            "seed": self._seed,
            "image_features": classifier.pooled_images(passed.images),
            "text_features": classifier.pooled_classes(passed.classes),
        }
        if batch.mixed is not None:
            values["mixed_labels"], values["mixing_weight"] = batch.mixed
        if "update_similarity" in self._loss.needs and self._previous:
            values["update_similarity"] = change_cosine(
                classifier.export(), self._received, self._previous
            )
        if self._reference is not None:
            values |= self._frozen(self._reference, batch)
        return LossContext(**values)  # type: ignore[arg-type]

    def _frozen(self, reference: ZeroShotReference, batch: Batch) -> dict[str, object]:
        needs = self._loss.needs
        values: dict[str, object] = {}
        if needs & {"zero_shot_logits", "zero_shot_image_features"}:
            images = reference.image_features(batch.rows, batch.pixels, batch.changed)
            values["zero_shot_image_features"] = images
            values["zero_shot_logits"] = reference.logits(images)
        if "zero_shot_text_features" in needs:
            values["zero_shot_text_features"] = reference.class_features
        if "encode_texts" in needs:
            values["encode_texts"] = self._encode_texts
        return values

    def _encode_texts(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        assert self._reference is not None
        return self._classifier.encode_names(names), self._reference.encode_names(names)
