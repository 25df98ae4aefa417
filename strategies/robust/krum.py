"""Krum: keep the one update that lies closest to its neighbours.

Blanchard et al. 2017, arXiv 1703.02757.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.experiment.arguments import whole
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.robust._distances import gram, squared_distances
from fl2ora.strategies.updates import ClientUpdate, in_order

MOST_CLIENTS = 100_000  # as of num-clients


class Krum(Strategy):
    """The update with the least score: the sum of squared distances to its nearest others.

    Of m updates the nearest ``max(1, m - malicious - 2)`` are counted. Scores are compared with six
    significant digits; of equal ones the client whose key sorts first (as text) is taken.

    Args:
        malicious: how many of a round's clients may be, f in the paper; its guarantee needs
            ``m >= 2 f + 3``, and with fewer updates there is no aggregation.
    """

    def __init__(self, malicious: int = 1) -> None:
        self.malicious = whole("malicious", malicious, at_least=0, at_most=MOST_CLIENTS)
        self.least_updates = 2 * malicious + 3

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Collect all updates and choose one; see ``Strategy.aggregate``."""
        return as_adapter(best_first(updates, plan.current, self.malicious)[0].adapter)


def best_first(
    updates: Iterable[ClientUpdate], current: Adapter, malicious: int
) -> list[ClientUpdate]:
    """Return the updates by Krum's score, equal ones by client key."""
    collected = in_order(updates)
    ranks = [float(f"{score:.5e}") for score in scores(collected, current, malicious)]
    order = sorted(range(len(collected)), key=ranks.__getitem__)  # stable
    return [collected[index] for index in order]


def scores(updates: Sequence[ClientUpdate], current: Adapter, malicious: int) -> list[float]:
    """Return Krum's score of every update; a single one scores 0."""
    distances = squared_distances(gram(updates, current))
    nearest = max(1, len(updates) - malicious - 2)
    # The least distance of each row, to itself, is left out.
    sums: list[float] = distances.sort(dim=1).values[:, 1 : 1 + nearest].sum(dim=1).tolist()
    return sums
