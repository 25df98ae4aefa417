"""One client's batches of a round: shuffled, augmented, mixed, or taken from what is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fl2ora.calibration.losses.base import Loss
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.images import LabelledImages


@dataclass(frozen=True)
class Batch:
    """One forward pass's data.

    Attributes:
        rows: ``(B,)`` which of the client's images, or of the kept views of them.
        pixels: ``(B, 3, H, W)`` on the device, after augmentation and mixing.
        labels: ``(B,)`` on the device.
        changed: the pixels are not just the preprocessed images.
        mixed: labels ``(B,)`` of the images mixed in, and the weight of the first ones.
        prefix: their prefix features where they are known; the pixels are empty then.
        share: of the images of its optimiser step, in (0, 1].
        ends_step: it is the last one of its step.
    """

    rows: Tensor
    pixels: Tensor
    labels: Tensor
    changed: bool = False
    mixed: tuple[Tensor, float] | None = None
    prefix: Tensor | None = None
    share: float = 1.0
    ends_step: bool = True


def draw_batches(
    classifier: ClipClassifier, data: LabelledImages, plan: TrainingPlan, table: Tensor | None
) -> Iterator[Batch]:
    """Yield the batches of all epochs, each epoch in an order of its own.

    Orders, augmentations and mixing come from streams ``order``, ``augmentation`` and ``mixing`` of
    the plan's seed.

    Args:
        classifier: preprocesses, on its device.
        data: the client's images.
        plan: sizes, augmentation, seed; the loss may mix the images of a batch.
        table: prefix features of all images, or of some views of each (see ``prefix_features``),
            one of which is drawn for every image and step; None if they are not known.
    """
    order, augment, mix = (
        torch.Generator().manual_seed(derive_seed(plan.seed, stream))
        for stream in ("order", "augmentation", "mixing")
    )
    for _ in range(plan.epochs):
        for group in torch.randperm(len(data), generator=order).split(
            plan.batch_size * plan.accumulate
        ):
            parts = group.split(plan.batch_size)
            for index, rows in enumerate(parts):
                if table is None:
                    batch = _mixed(_seen(classifier, data, rows, plan, augment), plan.loss, mix)
                else:
                    batch = _known(classifier, data, rows, table, augment)
                yield replace(
                    batch,
                    share=len(rows) / len(group),
                    ends_step=index == len(parts) - 1,
                )


def _seen(
    classifier: ClipClassifier,
    data: LabelledImages,
    rows: Tensor,
    plan: TrainingPlan,
    rng: torch.Generator,
) -> Batch:
    """Return the preprocessed and augmented images ``rows``."""
    device, kind = classifier.clip.device, plan.augmentation
    raw, shapes = data.images[rows], None
    if kind == "crop_flip":
        raw, shapes = data.images.for_crops(rows)
    pixels = classifier.preprocessing.training(moved(raw, device), kind, rng, shapes)
    return Batch(rows, pixels, moved(data.labels[rows], device), changed=kind != "none")


def _known(
    classifier: ClipClassifier,
    data: LabelledImages,
    rows: Tensor,
    table: Tensor,
    rng: torch.Generator,
) -> Batch:
    """Return a batch from the table, of a random one of each image's views."""
    device, labels = classifier.clip.device, data.labels[rows]
    views = len(table) // len(data)
    if views > 1:
        rows = rows + len(data) * torch.randint(views, rows.shape, generator=rng)
    prefix = moved(table[rows], device)
    return Batch(rows, prefix.new_zeros(0), moved(labels, device), prefix=prefix)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on ``device``; a CUDA device copies it while it computes."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _mixed(batch: Batch, loss: Loss, rng: torch.Generator) -> Batch:
    """Let the loss mix the batch, if it is one that does."""
    mixed = loss.mix(batch.pixels, batch.labels, rng)
    if mixed is None:
        return batch
    pixels, labels, weight = mixed
    return replace(batch, pixels=pixels, changed=True, mixed=(labels, weight))
