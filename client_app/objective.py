"""What one batch is trained on: the loss, the method's own and the rule's penalty."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fl2ora.client_app.batches import Batch
from fl2ora.client_app.loss_context import ContextFiller, ZeroShotReference
from fl2ora.client_app.precision import forward_in
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.forward_pass import ForwardPass
from fl2ora.clip_tuning.recorded_pass import can_be_recorded, recorded_passes


@dataclass(frozen=True)
class Evaluated:
    """The objective of one batch.

    Attributes:
        total: the scalar that is minimised, with gradient.
        passed: the forward pass it was computed from.
        losses: its parts for the record, scalars without gradient: ``loss`` as configured, of a
            weighted sum every term as ``loss_<term>`` before its weight, ``loss_method`` and
            ``loss_penalty`` where present.
    """

    total: Tensor
    passed: ForwardPass
    losses: dict[str, Tensor]


class Objective:
    """Evaluates batches of one client's round.

    Args:
        classifier: in training.
        plan: see ``TrainingPlan``.
        reference: the frozen model's view of the images, if anything reads it.
        filler: makes what the loss reads beside logits and labels.
    """

    def __init__(
        self,
        classifier: ClipClassifier,
        plan: TrainingPlan,
        reference: ZeroShotReference | None,
        filler: ContextFiller,
    ) -> None:
        self._classifier = classifier
        self._plan = plan
        self._reference = reference
        self._filler = filler
        self._recorded = recorded_passes(classifier) if _records(classifier, plan) else None

    def __call__(self, batch: Batch) -> Evaluated:
        """Return the objective of ``batch``."""
        return self.of(batch, self.forward(batch))

    def of(self, batch: Batch, passed: ForwardPass) -> Evaluated:
        """Return the objective of ``batch`` from its forward pass."""
        rule, loss = self._plan.rule, self._plan.loss
        logits = rule.logits(passed.logits)
        labels = rule.labels(batch.labels, logits.shape[1])
        value, terms = loss.evaluate(logits, labels, self._filler.fill(batch, passed))
        total, losses = value, {"loss": value.detach()}
        if terms.keys() != {loss.name}:  # of a single loss the one term is the loss
            losses |= {f"loss_{name}": term for name, term in terms.items()}
        extras = {"method": self._classifier.extra_loss(passed), "penalty": rule.penalty()}
        for name, extra in extras.items():
            if extra is not None:
                total = total + extra
                losses[f"loss_{name}"] = extra.detach()
        return Evaluated(total, passed, losses)

    def known(self, batch: Batch) -> Tensor | None:
        """Return zero-shot CLIP's features of the batch's images, where they are known."""
        if self._reference is None or batch.changed:
            return None
        return self._reference.known(batch.rows)

    def forward(self, batch: Batch) -> ForwardPass:
        """Return what the classifier makes of ``batch``."""
        known, precision, device = self.known(batch), self._plan.precision, batch.pixels.device
        parts = None
        if self._recorded is not None:
            parts = self._recorded.parts(
                batch.pixels,
                batch.prefix,
                (precision, self._plan.deterministic),
                lambda: forward_in(precision, device),
            )
        if parts is not None:
            return ForwardPass(batch.pixels, *parts, zero_shot=known)
        with forward_in(precision, device):
            return self._classifier.run(batch.pixels, batch.prefix, known)


def _records(classifier: ClipClassifier, plan: TrainingPlan) -> bool:
    """Whether passes are recorded; in float16 a pass may need several backward passes."""
    wanted = plan.cuda_graphs and classifier.clip.device.type == "cuda"
    return wanted and plan.precision != "float16" and can_be_recorded(classifier)
