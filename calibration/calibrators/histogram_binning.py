"""Histogram binning: the accuracy of every confidence bin replaces the confidence.

Source: Zadrozny, Elkan, "Obtaining calibrated probability estimates from decision trees and naive
Bayesian classifiers", ICML 2001.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._tensors import (
    check_classes,
    check_examples,
    check_flag,
    check_whole,
)
from fl2ora.calibration.calibrators._top1 import (
    Top1,
    Top1Calibrator,
    bin_centres,
    bin_sums,
    confidence_bins,
)
from fl2ora.calibration.calibrators.base import CalibrationContext, FitState, Parameters, Sums


class HistogramBinning(Top1Calibrator):
    """Replace the confidence by the accuracy of its equal-width bin.

    Parameters: ``accuracy (bins,)``; a bin without examples keeps its mid-point.

    Args:
        bins: how many bins.
        laplace: use ``(A + 1) / (n + 2)`` instead of ``A / n``, which never is 0 or 1.
    """

    exact: ClassVar[bool] = True

    def __init__(self, bins: int = 15, laplace: bool = False) -> None:
        self.bins = check_whole("bins", bins, 1)
        self.laplace = check_flag("laplace", laplace)

    def start(self, num_classes: int) -> FitState:
        """Return the mid-points, within half a bin of the identity."""
        check_classes(num_classes)
        return FitState({"accuracy": bin_centres(self.bins)}, {}, False)

    def statistics(
        self,
        logits: Tensor,
        labels: Tensor,
        state: FitState,
        *,
        context: CalibrationContext | None = None,
    ) -> Sums:
        """Return ``count`` and ``correct`` of every bin, ``(bins,)`` each."""
        sums = bin_sums(logits, labels, self.bins)
        return {name: sums[name] for name in ("count", "correct")}

    def update(self, state: FitState, sums: Sums) -> FitState:
        """Return the accuracies."""
        check_examples(self, sums)
        count, correct = sums["count"], sums["correct"]
        ratio = (correct + 1) / (count + 2) if self.laplace else correct / count.clamp(min=1)
        accuracy = torch.where(count > 0, ratio, bin_centres(self.bins))
        return FitState({"accuracy": accuracy}, {}, True)

    def recalibrate(self, top: Top1, parameters: Parameters) -> Tensor:
        """Return the accuracy of the bin."""
        return parameters["accuracy"][confidence_bins(top.confidence, self.bins)]
