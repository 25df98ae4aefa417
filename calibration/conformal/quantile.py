"""A quantile of scores that lie with many, found by counts alone.

Everybody counts their scores in bins of an interval; the counts are added, and the bin that holds
the wanted rank is the next interval. With 256 bins, three rounds tell numbers 6e-8 apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SLACK = 1e-9  # of a rank: 0.7 * 10 may come out above 7


@dataclass(frozen=True)
class Bracket:
    """An interval that holds the quantile: above ``above``, at most ``threshold``."""

    above: float
    threshold: float


def conformal_rank(count: int, alpha: float) -> int:
    """Return which of ``count`` scores, in rising order from 1, is the threshold.

    ``ceil((n + 1)(1 - alpha))``, with the correction for a finite sample; above ``count`` no
    threshold short of infinity has the coverage ``1 - alpha``.

    >>> conformal_rank(99, 0.1), conformal_rank(9, 0.3), conformal_rank(8, 0.1)
    (90, 7, 9)
    """
    return math.ceil((count + 1) * (1 - alpha) - _SLACK)


def counts_in(scores: Tensor, bracket: Bracket, bins: int) -> Tensor:
    """Return ``(bins + 2,)`` float64: scores up to the interval, in each bin of it, and beyond.

    Bins hold their upper edge. Interval and ``bins`` alone give the edges, so that counts of many
    can be added.
    """
    places = torch.searchsorted(_edges(bracket, bins), scores.double().contiguous())
    return torch.bincount(places, minlength=bins + 2).double()


def narrowed(counts: Tensor, bracket: Bracket, rank: int, largest: float) -> Bracket:
    """Return the bin that holds the score of a rank.

    Where that lies outside of the interval, because others count than before, it is the side on
    which it lies; a threshold too high is never too low.

    Args:
        counts: of all, added; see ``counts_in``.
        bracket: that they are of.
        rank: from 1.
        largest: that no score exceeds.
    """
    edges = _edges(bracket, len(counts) - 2)
    place = int(torch.searchsorted(counts.cumsum(0), float(rank)))
    if place == 0:
        return Bracket(bracket.above, bracket.above)
    if place > len(edges) - 1:
        return Bracket(bracket.threshold, largest)
    return Bracket(float(edges[place - 1]), float(edges[place]))


def _edges(bracket: Bracket, bins: int) -> Tensor:
    """Return ``(bins + 1,)`` rising edges, the ends of the interval among them."""
    steps = torch.arange(bins + 1, dtype=torch.float64) / bins
    edges = bracket.above + (bracket.threshold - bracket.above) * steps
    edges[-1] = bracket.threshold
    return edges
