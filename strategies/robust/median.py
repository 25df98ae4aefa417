"""Coordinate-wise median: no minority of clients can move a coordinate beyond the others.

Yin et al. 2018, arXiv 1803.01498.
"""

from __future__ import annotations

from collections.abc import Iterable

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.robust._order_statistics import mean_of_middle
from fl2ora.strategies.updates import ClientUpdate


class Median(Strategy):
    """Median of every coordinate, unweighted; of an even number the mean of the two middle ones."""

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Collect all updates and take the medians; see ``Strategy.aggregate``."""
        collected = list(updates)
        return mean_of_middle(collected, (len(collected) - 1) // 2)
