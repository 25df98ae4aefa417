"""Cosine decay: Loshchilov, Hutter 2016, arXiv 1608.03983, without restarts."""

from __future__ import annotations

import math

from fl2ora.clip_tuning.schedules._over_run import OverRun
from fl2ora.experiment.arguments import number


class Cosine(OverRun):
    """The factor ``final + (1 - final) (1 + cos(pi t)) / 2`` at the share t of the run.

    CoOp's schedule is ``cosine(warm_up=0.02)`` in a run of 50 rounds of one epoch.

    Args:
        per: ``round`` or ``step``; see ``OverRun``.
        final: towards which the factor falls, in [0, 1]; it stays above 0 even in the last step.
        warm_up: share of the run over which the rate first rises, in [0, 1).
    """

    def __init__(self, per: str = "round", final: float = 0.0, warm_up: float = 0.0) -> None:
        super().__init__(per, warm_up)
        self.final = number("final", final, at_least=0, at_most=1)

    def decay(self, share: float) -> float:
        """Return the cosine's value."""
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2
