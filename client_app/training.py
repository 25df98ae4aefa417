"""Local training: some epochs on one client's images, starting from the global adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fl2ora.client_app.batches import draw_batches
from fl2ora.client_app.determinism import repeatable
from fl2ora.client_app.loss_context import ContextFiller, ZeroShotReference, reads_reference
from fl2ora.client_app.objective import Objective
from fl2ora.client_app.stepper import Stepper
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.prefix.features import Views, prefix_features
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.images import LabelledImages
from fl2ora.strategies.client_rule import LocalStart
from fl2ora.strategies.updates import ClientUpdate

VIEWS = 10
"""Augmented views of an image whose features are averaged where a method gathers; Tip-Adapter's
code has so many (Zhang et al. 2021, arXiv 2111.03930)."""


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
    if len(data) == 0:
        raise UserError(f"client {plan.client!r} has no training images")
    received = classifier.export()
    fixed = classifier.image_prefix is not None and not plan.loss.mixes
    table = image_table() if fixed and image_table is not None else None
    wanted = classifier.wants_zero_shot or reads_reference(plan.loss)
    frozen = reference() if wanted and reference is not None else None
    stepper = Stepper(classifier, plan, len(data))
    plan.rule.begin(_local_start(plan, stepper, received, len(data)))
    if classifier.gathers:
        _gather(classifier, data, plan, table)
    filler = ContextFiller(plan.loss, classifier, frozen, received, plan.previous, plan.seed)
    objective = Objective(classifier, plan, frozen, filler)
    device = classifier.clip.device
    with _training(classifier, plan.seed), repeatable(device, wanted=plan.deterministic):
        losses = _train(classifier, data, plan, table, objective, stepper)
    aux, kept = plan.rule.finish(stepper.taken)
    own = plan.rule.metrics()
    metrics = {**({} if "loss" in own else losses), "steps": float(stepper.taken), **own}
    return ClientUpdate(plan.client, classifier.export(), len(data), metrics, aux), kept


def _train(
    classifier: ClipClassifier,
    data: LabelledImages,
    plan: TrainingPlan,
    table: Tensor | None,
    objective: Objective,
    stepper: Stepper,
) -> dict[str, float]:
    """Take all steps of the round; return the losses' means over the images of all epochs."""
    sums: dict[str, float] = {}
    for batch in draw_batches(classifier, data, plan, table):
        evaluated = objective(batch)
        if not math.isfinite(found := float(evaluated.total.detach())):
            raise UserError(
                f"client {plan.client!r}: the loss is {found} at step {stepper.taken + 1}; a "
                f"learning-rate below {plan.learning_rate:g} may help"
            )
        stepper.add(evaluated, batch)
        for name, loss in evaluated.losses.items():
            sums[name] = sums.get(name, 0.0) + loss * len(batch.labels)
    return {name: total / (len(data) * plan.epochs) for name, total in sums.items()}


def _local_start(
    plan: TrainingPlan, stepper: Stepper, received: Adapter, num_examples: int
) -> LocalStart:
    """Return where this round starts, and all that may differ at its end, for the rule."""
    return LocalStart(
        tuned=stepper.moving,
        received=received,
        aux=plan.aux,
        state=plan.state,
        num_examples=num_examples,
        learning_rate=stepper.learning_rate,
        momentum=stepper.setting("momentum"),
        weight_decay=stepper.setting("weight_decay"),
        optimiser=plan.optimiser,
        seed=plan.seed,
        client=plan.client,
    )


def _gather(
    classifier: ClipClassifier, data: LabelledImages, plan: TrainingPlan, table: Tensor | None
) -> None:
    """Let the method learn what it learns without gradients; see ``VIEWS``."""
    device, size, kind = classifier.clip.device, plan.batch_size, plan.augmentation
    if table is None:
        views = Views(kind, 1 if kind == "none" else VIEWS, derive_seed(plan.seed, "views"))
        table = prefix_features(classifier, data.images, size, views)
    seen = [
        torch.cat([classifier.finish_images(part.to(device)) for part in view.split(size)])
        for view in table.split(len(data))
    ]
    features = unit(torch.stack(seen).mean(dim=0))
    labels = plan.rule.labels(data.labels.to(device), len(classifier.class_names))
    rng = torch.Generator().manual_seed(derive_seed(0, "gather", plan.client))
    classifier.gather(features, labels, rng)


@contextmanager
def _training(classifier: ClipClassifier, seed: int) -> Iterator[None]:
    """Turn dropout on, drawing from ``seed``, and put everything back afterwards."""
    devices = [classifier.clip.device] if classifier.clip.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(seed, "dropout"))
        classifier.train()
        try:
            yield
        finally:
            classifier.eval()
