"""Local training: some epochs on one client's images, starting from the global adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fl2ora.client_app.determinism import repeatable
from fl2ora.client_app.local_round import LocalRound
from fl2ora.client_app.loss_context import ZeroShotReference
from fl2ora.client_app.precision import products_in
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.images import LabelledImages
from fl2ora.strategies.updates import ClientUpdate


def local_train(
    classifier: ClipClassifier,
    data: LabelledImages,
    plan: TrainingPlan,
    *,
    reference: Callable[[], ZeroShotReference] | None = None,
    image_table: Callable[[], Tensor | None] | None = None,
) -> tuple[ClientUpdate, Adapter]:
    """Train the tuned and personal parameters in place.

    Every random draw (batch order, augmentation, dropout) comes from the plan's seed; torch's
    global stream is left as it was. Dropout is on while training and off again afterwards.

    Args:
        classifier: already restored to the global adapter, on its device; a method with personal
            parts within ``as_client``.
        data: at least one image.
        plan: see ``TrainingPlan``.
        reference: makes the frozen model's view of the images; called if the loss or the method
            reads it.
        image_table: makes the prefix features of the client's images, or of some views of each
            (see ``prefix_features``); None from it means to do without. Called only where the
            method has a prefix and the loss mixes no images.

    Returns:
        The update to send, and the state to keep on the node. The update's ``metrics`` are
        ``steps``, those of the rule, and means over the images, in the order they were seen, of
        ``loss`` and its parts (see ``Evaluated``). A rule that gives a ``loss`` of its own
        replaces them all.

    Raises:
        UserError: there is no image, the loss is not finite, or a spec does not fit.
    """
    local = LocalRound(classifier, data, plan, reference=reference, image_table=image_table)
    device = classifier.clip.device
    with (
        in_training(classifier, plan.seed),
        repeatable(device, wanted=plan.deterministic),
        products_in(plan.precision),
    ):
        for batch in local.batches:
            local.take(batch)
    return local.finish()


@contextmanager
def in_training(classifier: ClipClassifier, seed: int) -> Iterator[None]:
    """Turn dropout on, drawing from ``seed``, and put everything back afterwards."""
    devices = [classifier.clip.device] if classifier.clip.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(seed, "dropout"))
        classifier.train()
        try:
            yield
        finally:
            classifier.eval()
