"""Truncated weights: no client counts for more than a share of a round, whatever size it claims.

Portnoy, Tirosh and Hendler, "Towards Federated Learning With Byzantine-Robust Client Weighting",
arXiv 2004.04986, with their alpha* as the share and one client as the set it bounds.
"""

from __future__ import annotations

from collections.abc import Iterable


def most_images(sizes: Iterable[int], share: float) -> int:
    """Return the largest U so that ``U <= share * sum of min(n, U)`` over the sizes n.

    Counting every client as at most U images gives none of them more than ``share`` of the weight.
    Where there are fewer than ``1 / share`` clients, that cannot be: U is 1 then, and all count
    alike.

    Args:
        sizes: images of each client, at least one client.
        share: in (0, 1].

    >>> most_images([10, 20, 30, 100000], 0.4)
    40
    >>> most_images([10, 20, 30], 0.5), most_images([10, 20, 30], 0.2)
    (30, 1)
    """
    known = list(sizes)
    low, high = 1, max([1, *known])
    while low < high:  # what holds for U holds for everything below it: the right side is concave
        middle = (low + high + 1) // 2
        if middle <= share * sum(min(size, middle) for size in known) * (1 + 1e-12):
            low = middle
        else:
            high = middle - 1
    return low
