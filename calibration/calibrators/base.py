"""The contract of a post-hoc calibrator: additive statistics in, parameters out.

A fit is a loop that a single machine and a federation run alike: every client computes
``statistics`` of its own calibration data at the current parameters, the sums are added, and
``update`` takes one step. Because only sums enter ``update``, the federated fit of a calibrator
marked ``exact`` equals the fit on the pooled data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

Parameters = dict[str, Tensor]
Sums = dict[str, Tensor]


@dataclass(frozen=True)
class FitState:
    """Where a fit stands.

    Attributes:
        parameters: what ``apply`` needs, float64 tensors by name.
        solver: whatever ``update`` remembers between steps, float64 tensors by name.
        done: no further step is needed.
    """

    parameters: Parameters
    solver: Parameters
    done: bool


class Calibrator(ABC):
    """A map from logits to calibrated log-probabilities, fitted on held-out data.

    Attributes:
        exact: the federated fit equals the fit on pooled data.
        preserves_argmax: ``apply`` never changes the predicted class.
        max_steps: the most rounds of statistics a fit may take.
    """

    exact: ClassVar[bool] = True
    preserves_argmax: ClassVar[bool] = True
    max_steps: ClassVar[int] = 1

    @abstractmethod
    def start(self, num_classes: int) -> FitState:
        """Return the state before the first step; ``apply`` at it is the identity if possible."""

    @abstractmethod
    def statistics(self, logits: Tensor, labels: Tensor, state: FitState) -> Sums:
        """Return additive sums over ``logits (N, K)`` and ``labels (N,)``; N may be 0."""

    @abstractmethod
    def update(self, state: FitState, sums: Sums) -> FitState:
        """Take one step from the added sums of all clients."""

    @abstractmethod
    def apply(self, logits: Tensor, parameters: Parameters) -> Tensor:
        """Return calibrated log-probabilities ``(N, K)`` float64 of ``logits (N, K)``."""


def add_sums(parts: Iterable[Sums]) -> Sums:
    """Add the clients' sums name by name."""
    total: Sums = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total[name] + value if name in total else value
    return total


def fit(calibrator: Calibrator, clients: Sequence[tuple[Tensor, Tensor]]) -> Parameters:
    """Fit on the calibration data of all ``clients``, each ``(logits (N, K), labels (N,))``.

    One client is the local fit; several are what a federation computes, message for message.
    """
    state = calibrator.start(int(clients[0][0].shape[1]))
    for _ in range(calibrator.max_steps):
        if state.done:
            break
        state = calibrator.update(
            state, add_sums(calibrator.statistics(*data, state) for data in clients)
        )
    return state.parameters
