"""One temperature per CLIP model, fitted on its zero-shot logits: a baseline without client data.

The temperature is learned on public images by the frozen zero-shot model and then divides the
logits of the tuned model on any data set and any number of classes.

Source: LeVine, Pikus, Raj, Amat Gil, "Enabling calibration in the zero-shot inference of large
vision-language models", 2023, arXiv 2303.12748.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fl2ora.calibration.calibrators._tensors import check_number, scalar
from fl2ora.calibration.calibrators.base import (
    CalibrationContext,
    Calibrator,
    FitState,
    Parameters,
    Sums,
)
from fl2ora.calibration.calibrators.temperature import Temperature


class ZeroShotTemperature(Calibrator):
    """Divide tuned logits by the temperature that calibrates the zero-shot model.

    Parameters: ``inverse_temperature``, ``1 / T``.

    Args:
        temperature: a known T, e.g. one fitted before; then there is nothing left to fit. None
            fits it on ``context.zero_shot_logits``, whose labels are those given.
    """

    exact: ClassVar[bool] = True
    preserves_argmax: ClassVar[bool] = True

    def __init__(self, temperature: float | None = None) -> None:
        if temperature is not None:
            check_number("temperature", temperature, positive=True)
        self.temperature = temperature
        self._scaling = Temperature()
        self.fit_needs = frozenset({"zero_shot_logits"} if temperature is None else ())
        self.max_steps = self._scaling.max_steps if temperature is None else 0

    def start(self, num_classes: int) -> FitState:
        """Return T = 1, or the known temperature with nothing left to do."""
        state = self._scaling.start(num_classes)
        if self.temperature is None:
            return state
        return FitState({"inverse_temperature": scalar(1 / self.temperature)}, {}, True)

    def statistics(
        self,
        logits: Tensor,
        labels: Tensor,
        state: FitState,
        *,
        context: CalibrationContext | None = None,
    ) -> Sums:
        """Return the sums of temperature scaling on the zero-shot logits; ``logits`` are unused.

        Raises:
            ValueError: the context holds no zero-shot logits.
        """
        context = context or CalibrationContext()
        zero_shot = context.require("zero_shot_logits", "zero_shot_temperature")
        return self._scaling.statistics(zero_shot, labels, state)

    def check_sums(self, sums: Sums, state: FitState, num_classes: int) -> None:
        """Refuse sums that no examples have, as temperature scaling does."""
        self._scaling.check_sums(sums, state, num_classes)

    def update(self, state: FitState, sums: Sums) -> FitState:
        """Take one Newton step, as temperature scaling does."""
        return self._scaling.update(state, sums)

    def restart(self, state: FitState) -> FitState:
        """Forget losses of other clients, as temperature scaling does."""
        return self._scaling.restart(state) if state.solver else state

    def apply(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return ``log softmax(z / T)`` of the tuned ``logits (N, K)``."""
        return self._scaling.apply(logits, parameters)
