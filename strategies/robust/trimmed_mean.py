"""Coordinate-wise trimmed mean.

Yin et al. 2018, arXiv 1803.01498.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.robust._order_statistics import mean_of_middle
from fl2ora.strategies.updates import ClientUpdate

_ROUNDING = 1e-9  # 0.29 * 100 is 28.999999999999996 in floating point


class TrimmedMean(Strategy):
    """Mean of every coordinate without its ``floor(cut m)`` least and greatest values, unweighted.

    Of fewer than ``1 / cut`` updates nothing would be left out: there is no aggregation then.

    Args:
        cut: share left out at each side, in [0, 0.5); 0 is the plain mean.
    """

    def __init__(self, cut: float = 0.2) -> None:
        if not 0 <= cut < 0.5:
            raise ValueError(f"cut: expected 0 <= cut < 0.5, found {cut}")
        self.cut = cut
        self.least_updates = math.ceil(1 / cut - _ROUNDING) if cut else 1

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Collect all updates, trim and average; see ``Strategy.aggregate``."""
        collected = list(updates)
        return mean_of_middle(collected, math.floor(self.cut * len(collected) + _ROUNDING))
