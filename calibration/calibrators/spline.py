"""Spline calibration: a smooth curve through the accumulated gap, whose slope corrects c.

With examples sorted by confidence, ``h(q) = (1/N) sum_{j <= q N} (a_j - c_j)`` is drawn in
towards 0 by a calibrated model. A natural cubic spline is fitted to h by least squares; the
calibrated confidence is ``c + h'(rank of c)``. Ranks come from fine-bin sums: h is known at the
bin ends and taken as straight between them, as is the rank of a confidence inside a bin.

Source: Gupta, Rahimi, Ajanthan, Mensink, Sminchisescu, Hartley, "Calibration of neural networks
using splines", 2021, arXiv 2006.12800.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.binning import bin_edges
from fl2ora.calibration.calibrators._tensors import check_classes, check_examples, check_whole
from fl2ora.calibration.calibrators._top1 import Top1, Top1Calibrator, bin_sums, interpolate
from fl2ora.calibration.calibrators.base import CalibrationContext, FitState, Parameters, Sums

RANKS = 1000
"""Equally spaced ranks at which the spline is fitted to h."""


class Spline(Top1Calibrator):
    """Add the slope of the fitted gap curve to the confidence, within [0, 1].

    Parameters: ``rank (bins + 1,)``, the share of examples up to every bin edge, and
    ``gap (knots,)``, the curve at equally spaced ranks.

    Args:
        bins: how many fine bins; the curve is straight inside each, so raise it where nearly all
            confidences are close to 1.
        knots: of the spline.
    """

    exact: ClassVar[bool] = False

    def __init__(self, bins: int = 1000, knots: int = 6) -> None:
        self.bins = check_whole("bins", bins, 2)
        self.knots = check_whole("knots", knots, 3, 100)

    def start(self, num_classes: int) -> FitState:
        """Return the identity: no gap."""
        check_classes(num_classes)
        rank = torch.linspace(0, 1, self.bins + 1, dtype=torch.float64)
        gap = torch.zeros(self.knots, dtype=torch.float64)
        return FitState({"rank": rank, "gap": gap}, {}, False)

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
        """Fit the knot values by least squares over equally spaced ranks."""
        total = check_examples(self, sums)
        nought = torch.zeros(1, dtype=torch.float64)
        rank = torch.cat([nought, sums["count"].cumsum(0) / total])
        curve = torch.cat([nought, (sums["correct"] - sums["confidence"]).cumsum(0) / total])
        at = torch.linspace(0, 1, RANKS + 1, dtype=torch.float64)
        basis, _ = natural_spline(at, self.knots)
        wanted = interpolate(at, rank, curve)
        gap = torch.linalg.lstsq(basis, wanted, driver="gelsd").solution
        return FitState({"rank": rank, "gap": gap}, {}, True)

    def recalibrate(self, top: Top1, parameters: Parameters) -> Tensor:
        """Return ``c + h'(rank of c)``, cut to [0, 1]."""
        edges = torch.tensor(bin_edges(self.bins))
        rank = interpolate(top.confidence, edges, parameters["rank"])
        slope = natural_spline(rank, self.knots)[1] @ parameters["gap"]
        return (top.confidence + slope).clamp(0, 1)


def natural_spline(at: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    """Return value and slope at ``at (N,)`` of the splines that are 1 at one knot, 0 at others.

    A natural cubic spline is linear in its values at the knots (equally spaced in [0, 1]): its
    second derivatives solve a tridiagonal system in them and vanish at both ends.

    Returns:
        Two ``(N, knots)`` tensors; times the knot values they give the spline and its slope.
    """
    step = 1 / (knots - 1)
    unit = torch.eye(knots, dtype=torch.float64)
    system, bends = unit.clone(), torch.zeros_like(unit)
    for i in range(1, knots - 1):
        system[i, i - 1 : i + 2] = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64)
        bends[i] = 6 / step**2 * (unit[i - 1] - 2 * unit[i] + unit[i + 1])
    second = torch.linalg.solve(system, bends)
    left = (at / step).floor().long().clamp(0, knots - 2)
    right = left + 1
    b = (at / step - left)[:, None]
    a = 1 - b
    value = a * unit[left] + b * unit[right]
    value = value + step**2 / 6 * ((a**3 - a) * second[left] + (b**3 - b) * second[right])
    slope = (unit[right] - unit[left]) / step
    slope = slope + step / 6 * ((3 * b**2 - 1) * second[right] - (3 * a**2 - 1) * second[left])
    return value, slope
