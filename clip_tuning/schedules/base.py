"""How the learning rate changes over a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where in a run an optimiser step is about to be taken.

    Attributes:
        round: of the run, from 1.
        num_rounds: of the run.
        step: within the round, from 0.
        steps: this client takes in the round.

    Raises:
        ValueError: a number out of these ranges.
    """

    round: int
    num_rounds: int
    step: int = 0
    steps: int = 1

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (1 <= self.round <= self.num_rounds and 0 <= self.step < self.steps):
            raise ValueError(f"expected 1 <= round <= num_rounds, 0 <= step < steps, found {self}")


class Schedule(ABC):
    """A factor on the learning rate; constructor arguments are what a spec string may set.

    Attributes:
        within_round: the factor may change between the steps of one round, which strategies that
            reckon with one learning rate a round refuse; False is a promise.
    """

    within_round: bool = True

    @abstractmethod
    def factor(self, at: Progress) -> float:
        """Return what the learning rate is multiplied by, in (0, 1]."""
