"""Local training: some epochs of SGD on one client's images, starting from the global adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl2ora.calibration.losses.base import Loss
from fl2ora.client_app.batches import Batch, Batches
from fl2ora.client_app.loss_context import ContextFiller, ZeroShotReference, reads_reference
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.prefix.features import prefix_features
from fl2ora.clip_tuning.preprocessing import Augmentation
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.images import LabelledImages
from fl2ora.strategies.client_rule import ClientRule, LocalStart
from fl2ora.strategies.updates import ClientUpdate

VIEWS = 10
"""Augmented views of an image whose features are averaged where a method gathers; Tip-Adapter's
code has so many (Zhang et al. 2021, arXiv 2111.03930)."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a client trains; see the run-config keys of the same names.

    Attributes:
        epochs: passes over the images.
        batch_size: images per step; the last batch of an epoch may be smaller.
        learning_rate: of SGD, constant.
        momentum: of SGD; its buffer starts anew every round.
        weight_decay: of SGD, on the tuned parameters.
        augmentation: of the images.
        precision: ``float32``, or ``bfloat16`` for autocast of the forward pass.
    """

    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augmentation: Augmentation = "none"
    precision: str = "float32"


class LocalTrainer:
    """One client's training in one round.

    Args:
        classifier: already restored to the global adapter, on its device; a method with personal
            parts within ``as_client``.
        settings: see ``TrainingSettings``.
        loss: of one batch.
        rule: client half of the strategy; plain SGD by default.
        reference: makes the frozen model's view of the images; called if the loss or the method
            reads it.
        image_table: makes the prefix features of the client's images (see ``ImagePrefix``); None
            from it means to do without. Called only where the method has a prefix and the loss
            mixes no images.
    """

    def __init__(
        self,
        classifier: ClipClassifier,
        settings: TrainingSettings,
        loss: Loss,
        rule: ClientRule | None = None,
        reference: Callable[[], ZeroShotReference] | None = None,
        image_table: Callable[[], Tensor | None] | None = None,
    ) -> None:
        self.classifier = classifier
        self.settings = settings
        self.loss = loss
        self.rule = rule or ClientRule()
        self._reference = reference
        self._frozen: ZeroShotReference | None = None
        fixed = classifier.image_prefix is not None and not loss.mixes
        self._table = image_table() if fixed and image_table is not None else None
        self._batches = Batches(
            classifier,
            loss,
            self._table,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            augmentation=settings.augmentation,
        )
        self.optimiser = torch.optim.SGD(
            classifier.trained or [torch.zeros(0, requires_grad=True)],
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def run(
        self,
        data: LabelledImages,
        *,
        client: str,
        seed: int,
        aux: Adapter | None = None,
        state: Adapter | None = None,
        previous: Adapter | None = None,
    ) -> tuple[ClientUpdate, Adapter]:
        """Train the tuned and personal parameters in place.

        Every random draw (batch order, augmentation, dropout) comes from ``seed``; torch's global
        stream is left as it was. Dropout is on while training and off again afterwards.

        Args:
            data: at least one image.
            client: key put into the update.
            seed: of this client in this round.
            aux: tensors the strategy sent for the rule.
            state: what the rule kept when this client last took part.
            previous: the adapter this client received when it last took part.

        Returns:
            The update to send, and the state to keep on the node.

        Raises:
            UserError: there is no image, or the loss is not finite.
        """
        if len(data) == 0:
            raise UserError(f"client {client!r} has no training images")
        received = self.classifier.export()
        self._begin(received, aux or {}, state or {}, len(data), seed, client)
        self._frozen = self._make_frozen()
        filler = ContextFiller(
            self.loss, self.classifier, self._frozen, received, previous or {}, seed
        )
        if self.classifier.gathers:
            self._gather(data, client, seed)
        total, steps = 0.0, 0
        with _training(self.classifier, seed):
            for batch in self._batches.draw(data, seed):
                value = self._step(batch, filler)
                steps += 1
                if not torch.isfinite(value):
                    raise UserError(
                        f"client {client!r}: the loss is {value.item()} at step {steps}; a "
                        f"learning-rate below {self.settings.learning_rate:g} may help"
                    )
                total += value.item() * len(batch.labels)
        out, kept = self.rule.finish(steps)
        metrics = {
            "loss": total / (len(data) * self.settings.epochs),
            "steps": float(steps),
            **self.rule.metrics(),
        }
        return ClientUpdate(client, self.classifier.export(), len(data), metrics, out), kept

    def _make_frozen(self) -> ZeroShotReference | None:
        """Return the frozen model's view, if anything reads it."""
        wanted = self.classifier.wants_zero_shot or reads_reference(self.loss)
        return self._reference() if wanted and self._reference is not None else None

    def _moving(self) -> dict[str, nn.Parameter]:
        """Return what travels and may differ after the round."""
        gathered = self.classifier.carried if self.classifier.gathers else {}
        return {**self.classifier.tuned, **gathered}

    def _clear_gradients(self) -> None:
        """Leave none, also of what no optimiser moves: a rule may put some there."""
        for parameter in [*self._moving().values(), *self.classifier.personal.values()]:
            parameter.grad = None

    def _gather(self, data: LabelledImages, client: str, seed: int) -> None:
        """Let the method learn what it learns without gradients; see ``VIEWS``."""
        classifier, kind = self.classifier, self.settings.augmentation
        device, batch = classifier.clip.device, self.settings.batch_size
        views = [self._table]
        if self._table is None:
            draws = torch.Generator().manual_seed(derive_seed(seed, "views"))
            count = 1 if kind == "none" else VIEWS
            views = [
                prefix_features(classifier, data.images, batch, kind, draws) for _ in range(count)
            ]
        seen = [
            torch.cat([classifier.finish_images(part.to(device)) for part in view.split(batch)])
            for view in views
            if view is not None
        ]
        features = unit(torch.stack(seen).mean(dim=0))
        labels = self.rule.labels(data.labels.to(device), len(classifier.class_names))
        rng = torch.Generator().manual_seed(derive_seed(0, "gather", client))
        classifier.gather(features, labels, rng)

    def _begin(
        self, received: Adapter, aux: Adapter, state: Adapter, examples: int, seed: int, client: str
    ) -> None:
        """Show the rule where this round starts, and all that may differ at its end."""
        self._clear_gradients()
        self.rule.begin(
            LocalStart(
                tuned=self._moving(),
                received=received,
                aux=aux,
                state=state,
                num_examples=examples,
                learning_rate=self.settings.learning_rate,
                momentum=self.settings.momentum,
                weight_decay=self.settings.weight_decay,
                seed=seed,
                client=client,
            )
        )

    def _step(self, batch: Batch, filler: ContextFiller) -> Tensor:
        """Take one step; return the loss of the batch without penalties."""
        half = self.settings.precision == "bfloat16"
        frozen = None if batch.changed else self._frozen
        zero_shot = None if frozen is None else frozen.known(batch.rows)
        with torch.autocast(batch.pixels.device.type, dtype=torch.bfloat16, enabled=half):
            passed = self.classifier.run(batch.pixels, batch.prefix, zero_shot)
        context = filler.fill(
            batch.rows,
            batch.pixels,
            batch.changed,
            (
                self.classifier.pooled_images(passed.images),
                self.classifier.pooled_classes(passed.classes),
            ),
            batch.mixed,
        )
        logits = self.rule.logits(passed.logits)
        labels = self.rule.labels(batch.labels, logits.shape[1])
        value = self.loss(logits, labels, context)
        objective = value
        for extra in (self.classifier.extra_loss(passed), self.rule.penalty()):
            objective = objective if extra is None else objective + extra
        self._clear_gradients()
        if objective.requires_grad:
            self.classifier.backward(objective, passed)
            self.rule.after_backward()
            self.optimiser.step()
        return value.detach()


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
