"""How the learning rate changes over a run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from fl2ora.experiment.errors import UserError, shown


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


def checked_factor(schedule: Schedule, at: Progress) -> float:
    """Return a schedule's factor.

    Raises:
        UserError: it is no number in (0, 1]; names the schedule, the round and the step.
    """
    found = schedule.factor(at)
    try:
        factor = float(found)
    except (TypeError, ValueError):
        factor = math.nan
    if not 0 < factor <= 1:
        kind = type(schedule)
        raise UserError(
            f"{kind.__module__}:{kind.__name__}: expected a factor above 0 and at most 1, found "
            f"{shown(found)} in round {at.round} of {at.num_rounds}, step {at.step + 1} of "
            f"{at.steps}"
        )
    return factor
