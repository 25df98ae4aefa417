"""What schedules over a whole run have in common: counting in rounds or steps, and a warm-up."""

from __future__ import annotations

from abc import abstractmethod

from fl2ora.clip_tuning.schedules.base import Progress, Schedule
from fl2ora.experiment.arguments import choice, number


class OverRun(Schedule):
    """A warm-up over the first share of a run, and a decay over the rest.

    A run is counted in T units: its rounds, or rounds times steps of a round. Unit p of the first
    ``W = warm_up * T`` has the factor ``(p + 1) / (W + 1)``, which rises to 1; a later one has
    ``decay((p - W) / (T - W))``.

    Args:
        per: ``round``: one rate for all steps of a round; ``step``: a rate for every step. Clients
            with more images take more steps, and pass through the same rates in smaller strides.
        warm_up: share of the run, in [0, 1).
    """

    def __init__(self, per: str, warm_up: float) -> None:
        self.within_round = choice("per", per, ("round", "step")) == "step"
        self.warm_up = number("warm_up", warm_up, at_least=0, below=1)

    def factor(self, at: Progress) -> float:
        """Return the factor of the unit that ``at`` lies in."""
        unit, total = at.round - 1, at.num_rounds
        if self.within_round:
            unit, total = unit * at.steps + at.step, total * at.steps
        warm = self.warm_up * total
        if unit < warm:
            return (unit + 1) / (warm + 1)
        return self.decay((unit - warm) / (total - warm))

    @abstractmethod
    def decay(self, share: float) -> float:
        """Return the factor after ``share`` in [0, 1) of the run behind the warm-up; 1 at 0."""
