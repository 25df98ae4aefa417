"""Measuring a stream: feed batches, ask for the figures at any time."""

from __future__ import annotations

from fl2ora.calibration.predictions import ArrayLike
from fl2ora.calibration.stats import DEFAULT_SPEC, CalibrationStats, StatsSpec
from fl2ora.calibration.summary import summarise


class CalibrationAccumulator:
    """A running sum of ``CalibrationStats``; holds the sums only, never a past batch.

    Attributes:
        stats: the sums so far; add those of other accumulators with ``+``.

    Example:
        >>> import torch
        >>> accumulator = CalibrationAccumulator()
        >>> for _ in range(3):
        ...     accumulator.update_logits(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
        >>> accumulator.summary()["accuracy"]
        0.5
    """

    def __init__(self, spec: StatsSpec = DEFAULT_SPEC) -> None:
        self.stats = CalibrationStats.zero(spec)

    def update_logits(self, logits: ArrayLike, labels: ArrayLike) -> None:
        """Add a batch of ``logits (B, K)`` and ``labels (B,)``."""
        self.stats = self.stats + CalibrationStats.from_logits(logits, labels, self.stats.spec)

    def update_probabilities(self, probabilities: ArrayLike, labels: ArrayLike) -> None:
        """Add a batch of ``probabilities (B, K)`` and ``labels (B,)``."""
        self.stats = self.stats + CalibrationStats.from_probabilities(
            probabilities, labels, self.stats.spec
        )

    def summary(self) -> dict[str, float]:
        """Return ``summarise`` of everything fed so far."""
        return summarise(self.stats)
