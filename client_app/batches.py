"""One client's batches of a round: shuffled, augmented, mixed, or taken from what is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fl2ora.calibration.losses.base import Loss
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.preprocessing import Augmentation
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.images import LabelledImages


@dataclass(frozen=True)
class Batch:
    """One step's data.

    Attributes:
        rows: ``(B,)`` which of the client's images.
        pixels: ``(B, 3, H, W)`` on the device, after augmentation and mixing.
        labels: ``(B,)`` on the device.
        changed: the pixels are not just the preprocessed images.
        mixed: labels ``(B,)`` of the images mixed in, and the weight of the first ones.
        prefix: their prefix features where they are known; the pixels are empty then.
    """

    rows: Tensor
    pixels: Tensor
    labels: Tensor
    changed: bool = False
    mixed: tuple[Tensor, float] | None = None
    prefix: Tensor | None = None


class Batches:
    """Draws batches.

    Args:
        classifier: preprocesses, on its device.
        loss: mixes the images of a batch, if it is one that does.
        table: prefix features of all images; None if they are not known.
        epochs: passes over the images.
        batch_size: images in a batch; the last of an epoch may have fewer.
        augmentation: of images whose prefix features are not known.
    """

    def __init__(
        self,
        classifier: ClipClassifier,
        loss: Loss,
        table: Tensor | None,
        *,
        epochs: int,
        batch_size: int,
        augmentation: Augmentation,
    ) -> None:
        self._classifier = classifier
        self._loss = loss
        self._table = table
        self._epochs = epochs
        self._batch_size = batch_size
        self._augmentation = augmentation

    def draw(self, data: LabelledImages, seed: int) -> Iterator[Batch]:
        """Yield shuffled batches of all epochs, preprocessed on the classifier's device."""
        order, augment, mix = (
            torch.Generator().manual_seed(derive_seed(seed, stream))
            for stream in ("order", "augmentation", "mixing")
        )
        device, kind = self._classifier.clip.device, self._augmentation
        for _ in range(self._epochs):
            for rows in torch.randperm(len(data), generator=order).split(self._batch_size):
                labels = data.labels[rows].to(device)
                if self._table is not None:
                    yield self._known(rows, labels)
                    continue
                pixels = self._classifier.preprocessing.training(
                    data.images[rows].to(device), kind, augment
                )
                yield self._mixed(Batch(rows, pixels, labels, changed=kind != "none"), mix)

    def _known(self, rows: Tensor, labels: Tensor) -> Batch:
        """Return a batch from the table."""
        assert self._table is not None
        prefix = self._table[rows].to(labels.device)
        return Batch(rows, prefix.new_zeros(0), labels, prefix=prefix)

    def _mixed(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Let the loss mix the batch, if it is one that does."""
        mixed = self._loss.mix(batch.pixels, batch.labels, rng)
        if mixed is None:
            return batch
        pixels, labels, weight = mixed
        return Batch(batch.rows, pixels, batch.labels, changed=True, mixed=(labels, weight))
