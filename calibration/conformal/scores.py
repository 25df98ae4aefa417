"""How strange each class would be as the label of an image: the scores of conformal prediction.

Sources: LAC: Sadinle, Lei & Wasserman, "Least ambiguous set-valued classifiers with bounded error
levels" (2019, arXiv 1609.00451). APS: Romano, Sesia & Candès, "Classification with valid and
adaptive coverage" (2020, arXiv 2006.02544). RAPS: Angelopoulos, Bates, Malik & Jordan,
"Uncertainty sets for image classifiers using conformal prediction" (2021, arXiv 2009.14193). The
last two without their random tie-breaking: equal images get equal sets, a little larger for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("lac", "aps", "raps")


def class_scores(probabilities: Tensor, kind: str, penalty: float = 0.0, free: int = 0) -> Tensor:
    """Return the score of every class, ``(N, K)`` float64, at least 0; the lower, the more likely.

    ``lac``: 1 - p. ``aps``: the probability of the class and of all that are more likely. ``raps``:
    that, and ``penalty`` for each rank beyond ``free``, the most likely class having rank 1. Of
    equal probabilities the lower index counts as the more likely.

    Args:
        probabilities: ``(N, K)``.
        kind: one of ``KINDS``.
        penalty: of ``raps``, at least 0.
        free: ranks without it.

    >>> p = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    >>> class_scores(p, "lac").tolist(), class_scores(p, "aps").tolist()
    ([[0.8, 0.5, 0.7]], [[1.0, 0.5, 0.8]])
    >>> class_scores(p, "raps", penalty=0.1, free=1).round(decimals=4).tolist()
    [[1.2, 0.5, 0.9]]
    """
    p = probabilities.double()
    if kind == "lac":
        return (1 - p).clamp(min=0)
    values, order = p.sort(dim=1, descending=True, stable=True)
    sums = values.cumsum(dim=1).clamp(max=1)
    if kind == "raps":
        ranks = torch.arange(1, p.shape[1] + 1, dtype=torch.float64)
        sums = sums + penalty * (ranks - free).clamp(min=0)
    return torch.empty_like(sums).scatter_(1, order, sums)


def largest_score(kind: str, num_classes: int, penalty: float = 0.0, free: int = 0) -> float:
    """Return a number that no score exceeds.

    >>> largest_score("aps", 10), largest_score("raps", 10, penalty=0.5, free=4)
    (1.0, 4.0)
    """
    return 1 + penalty * max(0, num_classes - free) if kind == "raps" else 1.0
