"""Multi-Krum: the mean of the updates with the least Krum scores.

Blanchard et al. 2017, arXiv 1703.02757.
"""

from __future__ import annotations

from collections.abc import Iterable

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.arguments import whole
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.robust.krum import MOST_CLIENTS, Krum, best_first
from fl2ora.strategies.updates import ClientUpdate, WeightedMean, Weighting


class MultiKrum(Strategy):
    """The mean of the ``keep`` best updates; scores and ties as in Krum.

    Args:
        malicious: see ``Krum``.
        keep: how many are averaged; 0: all of the round's m but ``malicious``, at least one.
        weighting: of the mean: ``uniform``; with ``examples`` a client may claim any size.
    """

    def __init__(self, malicious: int = 1, keep: int = 0, weighting: str = "uniform") -> None:
        krum = Krum(malicious)
        self.malicious, self.least_updates = krum.malicious, krum.least_updates
        self.keep = whole("keep", keep, at_least=0, at_most=MOST_CLIENTS)
        self.weighting = Weighting(weighting)

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Collect all updates, choose and average; see ``Strategy.aggregate``."""
        ranked = best_first(updates, plan.current, self.malicious)
        keep = self.keep or max(1, len(ranked) - self.malicious)
        return WeightedMean.of(ranked[:keep], self.weighting).result()
