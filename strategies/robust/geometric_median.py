"""Geometric median: the point with the least sum of distances to the clients' adapters.

Pillutla et al. 2019, arXiv 1912.13445 (RFA); iterations of Weiszfeld, in the m-dimensional space of
the mixing weights (Vardi & Zhang 2000, doi 10.1073/pnas.97.4.1423, for medians on a data point).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.arguments import whole
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.robust._distances import gram, squared_distances
from fl2ora.strategies.updates import ClientUpdate, WeightedMean, Weighting, in_order

_MOST_STEPS = 1_000_000


class GeometricMedian(Strategy):
    """``argmin_z sum_k p_k |z - theta_k|``, the norm taken over all tensors together.

    It is one of the adapters, exactly, or else found by iteration from the mean. It is unique
    unless all adapters lie on one line: of two with equal weights the result is their mean.

    Args:
        iterations: most steps.
        tolerance: stop once the mixing weights change by less than this in all.
        weighting: ``uniform``; with ``examples`` a client may claim any size.
    """

    def __init__(
        self, iterations: int = 1000, tolerance: float = 1e-9, weighting: str = "uniform"
    ) -> None:
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance: expected 0 <= tolerance < 1, found {tolerance}")
        self.iterations = whole("iterations", iterations, at_least=1, at_most=_MOST_STEPS)
        self.tolerance = tolerance
        self.weighting = Weighting(weighting)

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Collect all updates and iterate; see ``Strategy.aggregate``."""
        collected = in_order(updates)
        weights = torch.tensor([self.weighting.of(u) for u in collected], dtype=torch.float64)
        products = gram(collected, plan.current)
        mixing = _median(products, weights / weights.sum(), self.iterations, self.tolerance)
        mean = WeightedMean()
        for update, share in zip(collected, mixing.tolist(), strict=True):
            mean.add(update.adapter, share)
        return mean.result()


def _median(products: Tensor, weights: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Return mixing weights ``(m,)`` that add up to one.

    Args:
        products: inner products ``(m, m)`` of the points.
        weights: ``(m,)``, adding up to one.
        iterations: most steps.
        tolerance: see ``GeometricMedian``.
    """
    vertex = _best_point(products, weights)
    if vertex is not None:
        return vertex
    mixing = weights
    scale = products.diagonal().max().clamp(min=1e-300)
    for _ in range(iterations):
        pulled = products @ mixing
        squares = products.diagonal() - 2 * pulled + mixing @ pulled
        # The median is on no point, but an iterate may come near one.
        raw = weights / squares.clamp(min=1e-18 * scale).sqrt()
        following = raw / raw.sum()
        change = float((following - mixing).abs().sum())
        mixing = following
        if change < tolerance:
            break
    return mixing


def _best_point(products: Tensor, weights: Tensor) -> Tensor | None:
    """Return all weight on one point if that is the median, else None.

    Only the point with the least sum of distances can be; it is if the unit vectors to the others
    add up to less than the weight that lies on it.
    """
    distances = squared_distances(products).sqrt()
    best = int((distances @ weights).argmin())
    away = distances[best]
    here = away == 0
    pull = torch.where(here, 0.0, weights / away)
    rest = pull.sum()
    # |sum_j pull_j (x_j - x_best)|^2
    inner = pull @ products
    square = inner @ pull - 2 * rest * inner[best] + rest.square() * products[best, best]
    if square.clamp(min=0).sqrt() > (1 - 1e-9) * weights[here].sum():
        return None
    chosen = torch.zeros_like(weights)
    chosen[best] = 1.0
    return chosen
