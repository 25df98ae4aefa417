"""Isotonic regression: the non-decreasing map of confidence to accuracy with least squared error.

Pooling adjacent violators runs on fine-bin sums (n, sum c, sum a): the exact fit of the pooled
data with every confidence moved to the mean of its bin, i.e. by less than one bin width. Where
confidences are constant inside each bin nothing moves and the fit is exact. In general its mean
squared error exceeds that of the exact fit by at most ``2 max_b n_b / N``: averaging any monotone
map over the bins changes it, summed over examples, by at most the fullest bin's count.

Source: Zadrozny, Elkan, "Transforming classifier scores into accurate multiclass probability
estimates", KDD 2002.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._tensors import check_classes, check_examples, check_whole
from fl2ora.calibration.calibrators._top1 import (
    Top1,
    Top1Calibrator,
    bin_centres,
    bin_sums,
    interpolate,
)
from fl2ora.calibration.calibrators.base import CalibrationContext, FitState, Parameters, Sums


class Isotonic(Top1Calibrator):
    """Map the confidence by a non-decreasing, piecewise linear function.

    Parameters: ``confidence (bins,)`` and ``accuracy (bins,)``, the knots of that function (mean
    confidence of a bin, fitted accuracy); flat below the first and above the last. Bins without
    examples lie on the line between their neighbours.

    Args:
        bins: how many fine bins.
    """

    exact: ClassVar[bool] = False

    def __init__(self, bins: int = 1000) -> None:
        self.bins = check_whole("bins", bins, 2)

    def start(self, num_classes: int) -> FitState:
        """Return the identity up to half a bin at either end."""
        check_classes(num_classes)
        centres = bin_centres(self.bins)
        return FitState({"confidence": centres, "accuracy": centres.clone()}, {}, False)

    def statistics(
        self,
        logits: Tensor,
        labels: Tensor,
        state: FitState,
        *,
        context: CalibrationContext | None = None,
    ) -> Sums:
        """Return ``count``, ``confidence`` and ``correct`` of every bin, ``(bins,)`` each."""
        return bin_sums(logits, labels, self.bins)

    def update(self, state: FitState, sums: Sums) -> FitState:
        """Pool adjacent violators."""
        check_examples(self, sums)
        full = sums["count"] > 0
        count = sums["count"][full]
        means = sums["confidence"][full] / count
        accuracy = pool_adjacent_violators(sums["correct"][full] / count, count)
        knots = bin_centres(self.bins)
        knots[full] = means
        values = interpolate(knots, means, accuracy)
        values[full] = accuracy
        return FitState({"confidence": knots, "accuracy": values}, {}, True)

    def recalibrate(self, top: Top1, parameters: Parameters) -> Tensor:
        """Return the fitted accuracy at the confidence."""
        return interpolate(top.confidence, parameters["confidence"], parameters["accuracy"])


def pool_adjacent_violators(values: Tensor, weights: Tensor) -> Tensor:
    """Return the non-decreasing ``(G,)`` nearest to ``values (G,)`` in weighted squares.

    Args:
        values: what to make monotone, in order.
        weights: ``(G,)``, positive.
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, length = value, weight, 1
        while blocks and blocks[-1][0] >= mean:
            left, left_weight, left_length = blocks.pop()
            mean = (left * left_weight + mean * total) / (left_weight + total)
            total, length = total + left_weight, length + left_length
        blocks.append((mean, total, length))
    flat = [mean for mean, _, length in blocks for _ in range(length)]
    return torch.tensor(flat, dtype=torch.float64)
