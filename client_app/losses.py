"""The losses of one client's round, from its batches to the record."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fl2ora.client_app.objective import Evaluated
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.experiment.errors import UserError

_AT_ONCE = 50  # batches; reading a number waits until the device has computed it


class Losses:
    """Adds up the losses of a round in float64 and sees that all are finite.

    On the CPU every batch is read at once. On other devices some are read together, so that a
    diverging client is noticed some steps later.

    Args:
        plan: of the round.
        device: where the losses are.
    """

    def __init__(self, plan: TrainingPlan, device: torch.device) -> None:
        self._plan = plan
        self._at_once = 1 if device.type == "cpu" else _AT_ONCE
        self._noted: list[tuple[int, int, dict[str, Tensor]]] = []
        self._sums: dict[str, float] = {}

    def note(self, evaluated: Evaluated, num_images: int, step: int) -> None:
        """Take up what a batch of ``num_images`` came to in a ``step``, counted from 1.

        Raises:
            UserError: an objective was not finite.
        """
        values = {"": evaluated.total.detach(), **evaluated.losses}
        self._noted.append((step, num_images, values))
        if len(self._noted) == self._at_once:
            self._read()

    def means(self, num_images: int) -> dict[str, float]:
        """Return each loss's mean over the ``num_images`` of all batches.

        Raises:
            UserError: an objective was not finite.
        """
        if self._noted:
            self._read()
        return {name: total / num_images for name, total in self._sums.items()}

    def _read(self) -> None:
        noted, self._noted = self._noted, []
        scalars = [
            value.double().reshape(()) for _, _, values in noted for value in values.values()
        ]
        numbers = iter(torch.stack(scalars).tolist())
        for step, num_images, values in noted:
            found = dict(zip(values, numbers, strict=False))
            if not math.isfinite(total := found.pop("")):
                plan = self._plan
                raise UserError(
                    f"client {plan.client!r}: the loss is {total} at step {step}; a learning-rate "
                    f"below {plan.learning_rate:g} may help"
                )
            for name, loss in found.items():
                self._sums[name] = self._sums.get(name, 0.0) + loss * num_images
