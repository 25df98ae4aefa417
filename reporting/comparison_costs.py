"""What a run needed until it was good enough, and in all: rounds, and bytes to and from clients."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fl2ora.calibration.metrics.metric import Metric
from fl2ora.reporting.collected_runs import FinishedRun

_TRAINING = "training"


@dataclass(frozen=True)
class Target:
    """A value of a metric that a run may reach.

    Attributes:
        metric: which.
        value: at least, or at most where lower is better.
    """

    metric: Metric
    value: float

    def __str__(self) -> str:
        """Return it as people are told of it."""
        value = f"{100 * self.value:g} %" if self.metric.unit == "fraction" else f"{self.value:g}"
        return f"{self.metric.title} {'≥' if self.metric.better == 'higher' else '≤'} {value}"

    def reached(self, value: float) -> bool:
        """Return whether a value is good enough; NaN is not."""
        return value >= self.value if self.metric.better == "higher" else value <= self.value


def cost_of(run: FinishedRun, source: str, target: Target) -> tuple[int, float] | None:
    """Return the first measured round that reached a target, and the bytes of all up to it.

    Bytes are of all clients, down and up, as the callback ``traffic`` counts them; NaN without it.
    None where the target was never reached.
    """
    table = run.metrics
    if target.metric.name not in table:
        return None
    measured = table[(table["source"] == source) & (table["round"] > 0)].sort_values("round")
    good = measured[measured[target.metric.name].map(target.reached).astype(bool)]
    if not len(good):
        return None
    last = int(good["round"].iloc[0])
    return last, bytes_until(run, last)


def bytes_until(run: FinishedRun, last: float = math.inf) -> float:
    """Return the bytes to and from all clients up to a round; NaN where they were not counted."""
    table = run.metrics
    training = table[(table["source"] == _TRAINING) & (table["round"] <= last)]
    if not {"bytes_down", "bytes_up", "clients"} <= set(training.columns):
        return math.nan
    each = training["bytes_down"] + training["bytes_up"]
    return float((each * training["clients"]).sum(skipna=False))
