"""Linear decay."""

from __future__ import annotations

from fl2ora.clip_tuning.schedules._over_run import OverRun
from fl2ora.experiment.arguments import number


class Linear(OverRun):
    """The factor ``1 - (1 - final) t`` at the share t of the run.

    Args:
        per: ``round`` or ``step``; see ``OverRun``.
        final: towards which the factor falls, in [0, 1]; it stays above 0 even in the last step.
        warm_up: share of the run over which the rate first rises, in [0, 1).
    """

    def __init__(self, per: str = "round", final: float = 0.0, warm_up: float = 0.0) -> None:
        super().__init__(per, warm_up)
        self.final = number("final", final, at_least=0, at_most=1)

    def decay(self, share: float) -> float:
        """Return the line's value."""
        return 1 - (1 - self.final) * share
