"""From the objectives of batches to optimiser steps: accumulation, clipping, learning rates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fl2ora.client_app.batches import Batch
from fl2ora.client_app.objective import Evaluated
from fl2ora.client_app.precision import LossScale
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.optimisers.base import load_optimiser
from fl2ora.clip_tuning.schedules.base import Progress, Schedule, checked_factor
from fl2ora.experiment.plugins import load


class Stepper:
    """Moves what a classifier trains, through one client's round.

    The gradient of a step is the mean over the images of its batches: of everything that is
    minimised, so a penalty of the rule counts once. Then the rule changes it, once a step, and what
    comes of that is clipped: the limit holds for what the optimiser is given. Weight decay is the
    optimiser's and not counted. A method that changes gradients itself (``backward``) does so batch
    by batch.

    Args:
        classifier: in training.
        plan: see ``TrainingPlan``.
        num_examples: images of the client.

    Attributes:
        taken: optimiser steps so far.
        moving: what travels and may differ after the round, by name.

    Raises:
        UserError: the plan's optimiser or schedule does not fit.
    """

    def __init__(self, classifier: ClipClassifier, plan: TrainingPlan, num_examples: int) -> None:
        self.taken = 0
        self.moving = dict(classifier.tuned)
        if classifier.gathers:
            self.moving |= classifier.carried
        self._classifier = classifier
        self._plan = plan
        self._steps = plan.steps(num_examples)
        self._schedule = load(plan.schedule, Schedule)
        # torch refuses an empty list; some methods train nothing by gradients.
        trained = classifier.trained or [nn.Parameter(torch.zeros(0, 0))]
        self._optimiser = load_optimiser(plan.optimiser).make(trained, plan.learning_rate)
        self._scale = LossScale() if plan.precision == "float16" else None
        self._sums: dict[nn.Parameter, Tensor] = {}
        self.clear()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        plan = self._plan
        at = Progress(plan.round, plan.num_rounds, self.taken, self._steps)
        return plan.learning_rate * checked_factor(self._schedule, at)

    def setting(self, name: str) -> float:
        """Return a number the optimiser was made with, such as ``momentum``; 0 if it has none."""
        return float(self._optimiser.defaults.get(name, 0.0))

    def add(self, evaluated: Evaluated, batch: Batch) -> None:
        """Make the gradients of a batch and take them up; see ``take_up``."""
        self.clear()
        if evaluated.total.requires_grad and self._scale is not None:
            self._scale.backward(evaluated.total, self._parameters(), self.clear)
        elif evaluated.total.requires_grad:
            self._classifier.backward(evaluated.total, evaluated.passed)
        self.take_up(evaluated, batch)

    def take_up(self, evaluated: Evaluated, batch: Batch) -> None:
        """Take up the gradients of a batch, and take the step if it is the last one of it."""
        trains = evaluated.total.requires_grad
        if trains:
            self._collect(batch)
        if batch.ends_step:
            if trains:
                self._step()
            self.taken += 1

    def _step(self) -> None:
        plan = self._plan
        plan.rule.after_backward()
        if plan.gradient_clip:
            nn.utils.clip_grad_norm_(self._classifier.trained, plan.gradient_clip)
        for group in self._optimiser.param_groups:
            group["lr"] = self.learning_rate
        self._optimiser.step()

    def _collect(self, batch: Batch) -> None:
        """Keep the gradients of a batch; of the last one, put the step's means in their place."""
        if batch.share == 1:
            return
        for parameter in self._parameters():
            if parameter.grad is not None:
                part = batch.share * parameter.grad
                earlier = self._sums.get(parameter)
                self._sums[parameter] = part if earlier is None else earlier + part
        if batch.ends_step:
            for parameter in self._parameters():
                parameter.grad = self._sums.pop(parameter, None)

    def _parameters(self) -> list[nn.Parameter]:
        """Return what is trained, and what no optimiser moves but a rule may give a gradient."""
        return [*self.moving.values(), *self._classifier.personal.values()]

    def clear(self) -> None:
        """Forget the gradients of the batch before."""
        for parameter in self._parameters():
            parameter.grad = None
