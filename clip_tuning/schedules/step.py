"""Step decay: the learning rate is cut every so many rounds."""

from __future__ import annotations

from fl2ora.clip_tuning.schedules.base import Progress, Schedule
from fl2ora.experiment.arguments import number, whole


class Step(Schedule):
    """The factor ``factor ** ((round - 1) // every)``.

    Args:
        every: rounds between cuts.
        factor: of each cut, in (0, 1].
    """

    within_round = False

    def __init__(self, every: int = 10, factor: float = 0.1) -> None:
        self.every = whole("every", every, at_least=1)
        self.cut = number("factor", factor, above=0, at_most=1)

    def factor(self, at: Progress) -> float:
        """Return the factor of the round."""
        return self.cut ** ((at.round - 1) // self.every)
