"""One learning rate throughout."""

from __future__ import annotations

from fl2ora.clip_tuning.schedules._over_run import OverRun


class Constant(OverRun):
    """The factor 1, after the warm-up.

    Args:
        warm_up: share of the run over which the rate rises in equal strides, in [0, 1).
        per: whether it rises every ``round`` or every ``step``; see ``OverRun``.
    """

    def __init__(self, warm_up: float = 0.0, per: str = "round") -> None:
        super().__init__(per, warm_up)
        self.within_round = self.within_round and self.warm_up > 0

    def decay(self, share: float) -> float:
        """Return 1."""
        return 1.0
