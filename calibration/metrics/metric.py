"""What there is to say of a metric; the metrics themselves are in ``table``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.predictions import Scores
from fl2ora.calibration.stats import CalibrationStats

Of = Callable[[CalibrationStats], float]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: in records and in the run config's ``metrics``.
        of: its value from additive sums; NaN where there is nothing to measure.
        better: which direction is, None where neither is.
        unit: a ``fraction`` is shown in percent; ``nats``; a plain ``number``.
        title: for people.
        description: one line, with its source.
        default: every run has it unless it says otherwise.
        shown: it is a column of the tables people read.
        interval_shown: the tables show its 95 % interval.
        headline: a line of progress and the plot of the rounds show it.
        needs: the sums it is made of: ``bins``, the ``fine`` histogram (the value then is
            approximate), or those by ``class``.
        gap: it is a sum or maximum of gaps between confidence and accuracy: 0 without gaps, and
            raised by noise in the gaps by at most its value of the noise alone.
        resampled: intervals over examples are computed for it. Sums by class cannot be resampled,
            and some metrics take too long.
        beside: the metric whose cell it stands in, in brackets.
        of_scores: its exact value from the scores of pooled examples and the number of bins, where
            ``of`` is approximate.
        by_class: the ``(K,)`` vector behind it.
    """

    name: str
    of: Of
    better: Literal["lower", "higher"] | None
    unit: Literal["fraction", "nats", "number"]
    title: str
    description: str
    default: bool = False
    shown: bool = False
    interval_shown: bool = False
    headline: bool = False
    needs: Literal["bins", "fine", "class"] = "bins"
    gap: bool = False
    resampled: bool = True
    beside: str = ""
    of_scores: Callable[[Scores, int], float] | None = None
    by_class: Callable[[CalibrationStats], Floats] | None = None
