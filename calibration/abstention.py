"""From which confidence on to answer, so that a wanted share of the answers is right.

Held-out images are ranked by confidence. Of fixed shares of them (5 %, 10 %, ... 100 %), the
largest is taken for which the lower bound of Clopper & Pearson on the accuracy of its images is at
least what is wanted. Which ranks are looked at does not depend on the labels, and given the
confidence at a rank, what lies above it are independent draws from the images that a threshold
there would answer; so each bound holds, and as each is allowed one twentieth of the risk, all hold
at once, whichever is taken.

Sources: Geifman & El-Yaniv, "Selective classification for deep neural networks" (2017, arXiv
1705.08500): selection with a guaranteed risk. Clopper & Pearson, "The use of confidence or fiducial
limits illustrated in the case of the binomial" (1934).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fl2ora.calibration.binning import Floats

_SHARES = 20


@dataclass(frozen=True)
class Abstention:
    """A threshold on confidence and what it does to the images it was chosen on.

    Attributes:
        below: the confidence below which nothing is answered.
        answered: share of the images that is.
        accuracy: of the answers.
        at_least: lower bound of the accuracy on images like these.
    """

    below: float
    answered: float
    accuracy: float
    at_least: float


def clopper_pearson_lower(right: int, count: int, risk: float) -> float:
    """Return the one-sided lower bound of a share of which ``right`` of ``count`` were seen.

    Args:
        right: how many were.
        count: of how many.
        risk: probability that the bound is above the true share.

    >>> round(clopper_pearson_lower(59, 59, 0.05), 4)  # 0.05 ** (1 / 59)
    0.9505
    >>> clopper_pearson_lower(0, 10, 0.05)
    0.0
    """
    from scipy.stats import beta  # not until it is needed: few runs abstain

    return float(beta.ppf(risk, right, count - right + 1)) if right else 0.0


def abstentions(confidence: Floats, correct: Floats, *, risk: float = 0.05) -> list[Abstention]:
    """Return the thresholds that are looked at, from the strictest to the one that answers all.

    With probability ``1 - risk`` all their bounds hold at once, for images drawn as these were.

    Args:
        confidence: ``(N,)`` in [0, 1].
        correct: ``(N,)``, 1 where the prediction is right, else 0.
        risk: that a bound does not hold.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, right = confidence[order], np.cumsum(correct[order])
    total = len(ranked)
    found: dict[int, Abstention] = {}
    for share in range(1, _SHARES + 1):
        rank = math.ceil(total * share / _SHARES)
        edge = -math.inf if rank == total else float(ranked[rank])
        count = int(np.count_nonzero(ranked > edge))  # without those that equal the edge
        if not count:
            continue
        hits = round(float(right[count - 1]))
        found[count] = Abstention(
            0.0 if edge == -math.inf else float(np.nextafter(edge, 2)),
            count / total,
            hits / count,
            clopper_pearson_lower(hits, count, risk / _SHARES),
        )
    return list(found.values())


def abstention_for(
    confidence: Floats, correct: Floats, accuracy: float, *, risk: float = 0.05
) -> Abstention | None:
    """Return the threshold that answers most with at least ``accuracy``; None if there is none.

    Args:
        confidence: see ``abstentions``.
        correct: see there.
        accuracy: that the answers are to have on new images, in (0, 1).
        risk: that they do not have it.

    >>> confidence, correct = np.repeat([0.9, 0.6], 500), np.repeat([1.0, 0.0], 500)
    >>> found = abstention_for(confidence, correct, 0.95)
    >>> found.answered, found.accuracy, bool(found.below > 0.6)
    (0.5, 1.0, True)
    """
    able = [a for a in abstentions(confidence, correct, risk=risk) if a.at_least >= accuracy]
    return able[-1] if able else None
