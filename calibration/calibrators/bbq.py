"""Bayesian binning into quantiles, on equal-width bins: many histograms, averaged by evidence.

For B bins with counts n, hits A, mid-points m and a Beta prior of strength s per bin,
``a_b = s m_b`` and ``b_b = s (1 - m_b)``, the log evidence is
``sum_b lnG(s) - lnG(n_b + s) + lnG(A_b + a_b) - lnG(a_b) + lnG(n_b - A_b + b_b) - lnG(b_b)`` and
the estimate ``(A_b + a_b) / (n_b + s)``. The calibrated confidence is the average of the
estimates, weighted by the softmax of the log evidence. One grid that every B divides serves all.

Source: Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
binning", AAAI 2015; federated: Maddock, Cormode, Maple, 2025, arXiv 2510.01987.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._tensors import (
    check_classes,
    check_examples,
    check_number,
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

GRID = 720
"""Default grid: its 30 divisors are the numbers of bins that are tried."""

LARGEST_GRID = 100_000


class Bbq(Top1Calibrator):
    """Average histogram binning over numbers of bins, weighted by evidence.

    Parameters: ``accuracy (grid,)``, the averaged estimate of every cell of the grid, and
    ``weights``, one per number of bins, for inspection.

    Args:
        bins: the numbers of bins to average over, all used. None: the divisors of 720 from
            ``N^(1/3) / 10`` (at least 1) to ``10 N^(1/3)``, with N the pooled count.
        pseudo_count: s, the weight of the prior in every bin, in examples.
    """

    exact: ClassVar[bool] = True

    def __init__(self, bins: Sequence[int] | None = None, pseudo_count: float = 2.0) -> None:
        self.pseudo_count = check_number("pseudo_count", pseudo_count, positive=True)
        self.limited = bins is None
        if bins is not None and not isinstance(bins, list | tuple):
            expected = "a list of whole numbers or None"
            raise ValueError(f"bins: expected {expected}, found {bins!r}")
        sizes = [b for b in range(1, GRID + 1) if GRID % b == 0] if bins is None else list(bins)
        self.sizes = [check_whole("bins", size, 1) for size in sizes]
        if not sizes or len(set(sizes)) < len(sizes):
            raise ValueError(f"bins: expected at least one number, none twice, found {bins!r}")
        self.grid = math.lcm(*self.sizes)
        if self.grid > LARGEST_GRID:
            raise ValueError(
                f"bins: expected a least common multiple up to {LARGEST_GRID}, "
                f"found {self.grid} for {bins!r}"
            )

    def start(self, num_classes: int) -> FitState:
        """Return the mid-points of the grid, within half a cell of the identity."""
        check_classes(num_classes)
        weights = torch.full((len(self.sizes),), 1 / len(self.sizes), dtype=torch.float64)
        return FitState({"accuracy": bin_centres(self.grid), "weights": weights}, {}, False)

    def statistics(
        self,
        logits: Tensor,
        labels: Tensor,
        state: FitState,
        *,
        context: CalibrationContext | None = None,
    ) -> Sums:
        """Return ``count`` and ``correct`` of every cell of the grid, ``(grid,)`` each."""
        sums = bin_sums(logits, labels, self.grid)
        return {name: sums[name] for name in ("count", "correct")}

    def update(self, state: FitState, sums: Sums) -> FitState:
        """Score every number of bins and average their estimates."""
        total = check_examples(self, sums)
        cells, evidence = [], []
        for size in self.sizes:
            count = sums["count"].reshape(size, -1).sum(dim=1)
            correct = sums["correct"].reshape(size, -1).sum(dim=1)
            estimate, score = self._posterior(count, correct)
            cells.append(estimate.repeat_interleave(self.grid // size))
            allowed = not self.limited or _in_range(size, total)
            evidence.append(score if allowed else torch.full_like(score, -torch.inf))
        weights = torch.stack(evidence).softmax(dim=0)
        accuracy = weights @ torch.stack(cells)
        return FitState({"accuracy": accuracy, "weights": weights}, {}, True)

    def _posterior(self, count: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
        """Return the estimate of every bin and the log evidence of this number of bins."""
        hits = self.pseudo_count * bin_centres(len(count))
        misses = self.pseudo_count - hits
        strength = hits + misses
        terms = (
            torch.lgamma(strength)
            - torch.lgamma(count + strength)
            + torch.lgamma(correct + hits)
            - torch.lgamma(hits)
            + torch.lgamma(count - correct + misses)
            - torch.lgamma(misses)
        )
        return (correct + hits) / (count + strength), terms.sum()

    def recalibrate(self, top: Top1, parameters: Parameters) -> Tensor:
        """Return the averaged estimate of the cell."""
        return parameters["accuracy"][confidence_bins(top.confidence, self.grid)]


def _in_range(size: int, count: float) -> bool:
    """Return whether ``size`` bins suit ``count`` examples."""
    root: float = count ** (1 / 3)
    return max(1, math.floor(root / 10)) <= size <= 10 * root
