"""One client's round of local training, batch by batch: everything but who drives it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fl2ora.client_app.batches import Batch, draw_batches
from fl2ora.client_app.loss_context import ContextFiller, ZeroShotReference, reads_reference
from fl2ora.client_app.losses import Losses
from fl2ora.client_app.objective import Evaluated, Objective
from fl2ora.client_app.stepper import Stepper
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.forward_pass import ForwardPass
from fl2ora.clip_tuning.prefix.features import Views, prefix_features
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.images import LabelledImages
from fl2ora.strategies.client_rule import LocalStart
from fl2ora.strategies.updates import ClientUpdate

VIEWS = 10
"""Augmented views of an image whose features are averaged where a method gathers; Tip-Adapter's
code has so many (Zhang et al. 2021, arXiv 2111.03930)."""


class LocalRound:
    """Takes a client's batches one after the other; see ``local_train`` for the arguments.

    Attributes:
        batches: of all epochs, drawn as they are asked for.
        objective: what a batch is trained on.
        stepper: moves the parameters.
        plan: of the round.
        classifier: whose parameters it moves.

    Raises:
        UserError: there is no image, or a spec does not fit.
    """

    def __init__(
        self,
        classifier: ClipClassifier,
        data: LabelledImages,
        plan: TrainingPlan,
        *,
        reference: Callable[[], ZeroShotReference] | None = None,
        image_table: Callable[[], Tensor | None] | None = None,
    ) -> None:
        if len(data) == 0:
            raise UserError(f"client {plan.client!r} has no training images")
        self.plan, self.classifier, self._num_examples = plan, classifier, len(data)
        received = classifier.export()
        fixed = classifier.image_prefix is not None and not plan.loss.mixes
        table = image_table() if fixed and image_table is not None else None
        wanted = classifier.wants_zero_shot or reads_reference(plan.loss)
        frozen = reference() if wanted and reference is not None else None
        self.stepper = Stepper(classifier, plan, len(data))
        plan.rule.begin(_local_start(plan, self.stepper, received, len(data)))
        if classifier.gathers:
            _gather(classifier, data, plan, table)
        filler = ContextFiller(plan.loss, classifier, frozen, received, plan.previous, plan.seed)
        self.objective = Objective(classifier, plan, frozen, filler)
        self.batches = draw_batches(classifier, data, plan, table)
        self._losses = Losses(plan, classifier.clip.device)

    def take(self, batch: Batch) -> None:
        """Evaluate a batch by itself, and take up its gradients.

        Raises:
            UserError: the loss was not finite.
        """
        evaluated = self.evaluate(batch, self.objective.forward(batch))
        self.stepper.add(evaluated, batch)

    def evaluate(self, batch: Batch, passed: ForwardPass) -> Evaluated:
        """Return a batch's objective from its forward pass, and note its losses.

        Raises:
            UserError: the loss was not finite.
        """
        evaluated = self.objective.of(batch, passed)
        self._losses.note(evaluated, len(batch.labels), self.stepper.taken + 1)
        return evaluated

    def finish(self) -> tuple[ClientUpdate, Adapter]:
        """Return the update to send and the state to keep, after the last batch.

        Raises:
            UserError: a loss was not finite.
        """
        plan, steps = self.plan, self.stepper.taken
        losses = self._losses.means(self._num_examples * plan.epochs)
        aux, kept = plan.rule.finish(steps)
        own = plan.rule.metrics()
        metrics = {**({} if "loss" in own else losses), "steps": float(steps), **own}
        adapter = self.classifier.export()
        return ClientUpdate(plan.client, adapter, self._num_examples, metrics, aux), kept


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
