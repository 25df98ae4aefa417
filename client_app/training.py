"""Local training: some epochs of SGD on one client's images, starting from the global adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from calibration.losses.base import Loss, LossContext
from clip_tuning.adapter import Adapter
from clip_tuning.classifier import ClipClassifier
from clip_tuning.preprocessing import Augmentation
from experiment.errors import UserError
from experiment.seeds import derive_seed
from federated_data.images import LabelledImages
from strategies.client_rule import ClientRule, LocalStart
from strategies.updates import ClientUpdate


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


@dataclass(frozen=True)
class Batch:
    """One step's data: ``pixels (B, 3, H, W)`` on the device and ``labels (B,)`` with them."""

    pixels: Tensor
    labels: Tensor


class LocalTrainer:
    """One client's training in one round.

    Args:
        classifier: already restored to the global adapter, on its device.
        settings: see ``TrainingSettings``.
        loss: of one batch.
        rule: client half of the strategy; plain SGD by default.
    """

    def __init__(
        self,
        classifier: ClipClassifier,
        settings: TrainingSettings,
        loss: Loss,
        rule: ClientRule | None = None,
    ) -> None:
        """Set up the optimiser; its momentum starts at zero every round."""
        self.classifier = classifier
        self.settings = settings
        self.loss = loss
        self.rule = rule or ClientRule()
        self.optimiser = torch.optim.SGD(
            [*classifier.tuned.values()] or [torch.zeros(0, requires_grad=True)],
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
    ) -> tuple[ClientUpdate, Adapter]:
        """Train the tuned parameters in place.

        Every random draw (batch order, augmentation, dropout) comes from ``seed``; torch's global
        stream is left as it was. Dropout is on while training and off again afterwards.

        Args:
            data: at least one image.
            client: key put into the update.
            seed: of this client in this round.
            aux: tensors the strategy sent for the rule.
            state: what the rule kept when this client last took part.

        Returns:
            The update to send, and the state to keep on the node.

        Raises:
            UserError: there is no image, or the loss is not finite.
        """
        if len(data) == 0:
            raise UserError(f"client {client!r} has no training images")
        self.rule.begin(
            LocalStart(
                tuned=self.classifier.tuned,
                received=self.classifier.export(),
                aux=aux or {},
                state=state or {},
                num_examples=len(data),
                learning_rate=self.settings.learning_rate,
                momentum=self.settings.momentum,
                weight_decay=self.settings.weight_decay,
                seed=seed,
            )
        )
        total, steps = 0.0, 0
        with _training(self.classifier, seed):
            for batch in self._batches(data, seed):
                value = self._step(batch)
                steps += 1
                if not torch.isfinite(value):
                    raise UserError(
                        f"client {client!r}: the loss is {value.item()} at step {steps}; a "
                        f"learning-rate below {self.settings.learning_rate:g} may help"
                    )
                total += value.item() * len(batch.labels)
        out, kept = self.rule.finish(steps)
        metrics = {"loss": total / (len(data) * self.settings.epochs), "steps": float(steps)}
        return ClientUpdate(client, self.classifier.export(), len(data), metrics, out), kept

    def _step(self, batch: Batch) -> Tensor:
        """Take one step; return the loss of the batch without the rule's penalty."""
        half = self.settings.precision == "bfloat16"
        with torch.autocast(batch.pixels.device.type, dtype=torch.bfloat16, enabled=half):
            logits = self.classifier(batch.pixels)
        value = self.loss(logits, batch.labels, LossContext())
        penalty = self.rule.penalty()
        objective = value if penalty is None else value + penalty
        self.optimiser.zero_grad(set_to_none=True)
        if objective.requires_grad:
            objective.backward()
            self.rule.after_backward()
            self.optimiser.step()
        return value.detach()

    def _batches(self, data: LabelledImages, seed: int) -> Iterator[Batch]:
        """Yield shuffled batches of all epochs, preprocessed on the classifier's device."""
        order = torch.Generator().manual_seed(derive_seed(seed, "order"))
        augment = torch.Generator().manual_seed(derive_seed(seed, "augmentation"))
        device = self.classifier.clip.device
        for _ in range(self.settings.epochs):
            for rows in torch.randperm(len(data), generator=order).split(self.settings.batch_size):
                images = data.images[rows].to(device)
                pixels = self.classifier.preprocessing.training(
                    images, self.settings.augmentation, augment
                )
                yield Batch(pixels, data.labels[rows].to(device))


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
