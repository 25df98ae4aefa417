"""What calibrators of the top-1 confidence share: a map c -> c' and how it changes a row.

The predicted class keeps its place and gets c'; the other K - 1 probabilities keep their ratios
and share 1 - c', i.e. they are multiplied by ``(1 - c') / (1 - c)``. Ratios are taken from the
logits, so they are known even where c rounds to 1. c' may lie below another class's new
probability: the prediction reported stays that of the input logits.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.binning import bin_index, sum_by_bin
from fl2ora.calibration.calibrators._tensors import PROBABILITY_FLOOR, as_labels, as_logits
from fl2ora.calibration.calibrators.base import CalibrationContext, Calibrator, Parameters, Sums


@dataclass(frozen=True)
class Top1:
    """The prediction of N examples; ``(N,)`` tensors, float64 unless said.

    Attributes:
        predicted: int64, of equal logits the lowest index.
        confidence: c, its softmax probability.
        log_confidence: ln c.
        log_rest: ln(1 - c), finite even where c rounds to 1.
        others: log-probabilities ``(N, K)`` of the classes given that the prediction is wrong;
            minus infinity for the predicted class.
    """

    predicted: Tensor
    confidence: Tensor
    log_confidence: Tensor
    log_rest: Tensor
    others: Tensor


def top1(logits: Tensor) -> Top1:
    """Return the prediction and confidence of ``logits (N, K)``."""
    z = as_logits(logits)
    predicted = z.argmax(dim=1)
    z = z - z.amax(dim=1, keepdim=True)
    others = z.scatter(1, predicted[:, None], -torch.inf)
    rest = others.logsumexp(dim=1)
    log_total = torch.logaddexp(rest, torch.zeros_like(rest))
    return Top1(
        predicted=predicted,
        confidence=1 / z.exp().sum(dim=1),
        log_confidence=-log_total,
        log_rest=rest - log_total,
        others=others - rest[:, None],
    )


class Top1Calibrator(Calibrator):
    """Base of the calibrators that map the confidence of the predicted class only."""

    preserves_argmax: ClassVar[bool] = True

    @abstractmethod
    def recalibrate(self, top: Top1, parameters: Parameters) -> Tensor:
        """Return the calibrated confidence ``(N,)`` in [0, 1] of the predicted class."""

    def apply(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return log-probabilities with c' for the prediction, drawn in to [1e-12, 1 - 1e-12]."""
        top = top1(logits)
        mapped = self.recalibrate(top, parameters)
        mapped = mapped.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)[:, None]
        rows = top.others + (-mapped).log1p()
        return rows.scatter(1, top.predicted[:, None], mapped.log())

    def confidence(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return c' itself, ``(N,)``: exact 0 and 1 included."""
        return self.recalibrate(top1(logits), parameters)


def confidence_bins(confidence: Tensor, bins: int) -> Tensor:
    """Return the right-closed bin ``(N,)`` int64 of each confidence."""
    return torch.from_numpy(bin_index(confidence.numpy(), bins))


def bin_sums(logits: Tensor, labels: Tensor, bins: int) -> Sums:
    """Return ``count``, ``confidence`` and ``correct``: n, sum c and sum a of every bin."""
    top = top1(logits)
    hits = top.predicted == as_labels(labels, logits)
    index = bin_index(top.confidence.numpy(), bins)
    return {
        "count": torch.from_numpy(sum_by_bin(index, None, bins)),
        "confidence": torch.from_numpy(sum_by_bin(index, top.confidence.numpy(), bins)),
        "correct": torch.from_numpy(sum_by_bin(index, hits.double().numpy(), bins)),
    }


def bin_centres(bins: int) -> Tensor:
    """Return the mid-points ``(bins,)`` of the bins."""
    return (torch.arange(bins, dtype=torch.float64) + 0.5) / bins


def interpolate(at: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Return the piecewise linear function through ``(knots, values)`` at ``at``, flat outside.

    Args:
        at: ``(N,)``.
        knots: ``(G,)``, ascending; a single knot makes a constant.
        values: ``(G,)``.
    """
    upper = torch.searchsorted(knots, at.contiguous()).clamp(max=len(knots) - 1)
    lower = (upper - 1).clamp(min=0)
    width = knots[upper] - knots[lower]
    share = torch.where(width > 0, (at - knots[lower]) / width, torch.ones_like(at))
    return values[lower] + share.clamp(0, 1) * (values[upper] - values[lower])
