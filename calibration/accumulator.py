"""Measuring a stream: feed batches, ask for the metrics at any time."""

from __future__ import annotations

from typing import Literal, get_args

from fl2ora.calibration.metrics.table import chosen_metrics, spec_for
from fl2ora.calibration.predictions import ArrayLike
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.calibration.summaries import summarise

Inputs = Literal["logits", "probabilities", "binary_scores"]


class CalibrationAccumulator:
    """A running sum of ``CalibrationStats``; holds the sums only, never a past batch.

    Used like a metric of torchmetrics: ``update``, ``compute``, ``reset``. What the rows are is
    said, never guessed. Accumulators of parts, such as processes or clients, are added with ``+``.

    Args:
        inputs: what ``update`` takes: ``logits (B, K)``, ``probabilities (B, K)`` or
            ``binary_scores (B,)``, the probability of class 1.
        metrics: as for ``chosen_metrics``.
        num_bins: equal-width confidence bins.
        num_classes: K; needed by metrics of each class alone.

    Attributes:
        stats: the sums so far.

    Raises:
        ValueError: an unknown kind of input or metric, or ``num_classes`` is needed.

    Example:
        >>> import torch
        >>> meter = CalibrationAccumulator("logits", metrics="default + auroc")
        >>> for _ in range(3):
        ...     meter.update(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
        >>> meter.compute()["accuracy"], meter.compute()["auroc"]
        (0.5, 0.5)
        >>> (meter + meter).compute()["num_examples"]
        24.0
        >>> meter.reset()
        >>> meter.compute()["num_examples"]
        0.0
    """

    def __init__(
        self,
        inputs: Inputs = "logits",
        metrics: str = "default",
        *,
        num_bins: int = 15,
        num_classes: int = 0,
    ) -> None:
        if inputs not in get_args(Inputs):
            raise ValueError(f"inputs must be one of {', '.join(get_args(Inputs))}, found {inputs}")
        self._inputs: Inputs = inputs
        self._metrics = chosen_metrics(metrics)
        num_classes = 2 if inputs == "binary_scores" else num_classes
        self.stats = CalibrationStats.zero(spec_for(self._metrics, num_bins, num_classes))

    def update(self, rows: ArrayLike, labels: ArrayLike) -> None:
        """Add a batch of rows and integer ``labels (B,)``.

        Raises:
            ValueError: rows or labels are not what they should be.
        """
        sums = {
            "logits": CalibrationStats.from_logits,
            "probabilities": CalibrationStats.from_probabilities,
            "binary_scores": CalibrationStats.from_binary_scores,
        }
        self.stats = self.stats + sums[self._inputs](rows, labels, self.stats.spec)

    def compute(self) -> dict[str, float]:
        """Return ``summarise`` of everything fed so far."""
        return summarise(self.stats, self._metrics)

    def reset(self) -> None:
        """Forget everything fed so far."""
        self.stats = CalibrationStats.zero(self.stats.spec)

    def __add__(self, other: CalibrationAccumulator) -> CalibrationAccumulator:
        """Return an accumulator of what both were fed, with the metrics of the first.

        Raises:
            ValueError: their sums differ in size.
        """
        if not isinstance(other, CalibrationAccumulator):
            return NotImplemented
        total = object.__new__(CalibrationAccumulator)
        total._inputs, total._metrics = self._inputs, self._metrics
        total.stats = self.stats + other.stats
        return total
