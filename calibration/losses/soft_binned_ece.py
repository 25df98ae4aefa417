"""SB-ECE, expected calibration error with soft bins.

Confidence ``c_i`` belongs to bin b with ``u_ib = softmax_b(-(c_i - (b + 0.5)/M)^2 / T)``. With
``S_b = sum_i u_ib`` and the soft means ``C_b`` of confidence and ``A_b`` of correctness the
penalty is ``(sum_b (S_b/B) |C_b - A_b|^norm)^(1/norm)``. A penalty; the weight is searched. The
authors' decay form sets ``T = 1/(ln(d) M^2)`` for a fall by the factor d from bin to bin.

Cautions: correctness carries no gradient. A batch statistic, biased upwards for small batches.

Source: Karandikar et al., 2021, arXiv:2108.00106.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl2ora.calibration.losses._arguments import number, whole
from fl2ora.calibration.losses._batch import read, safe_sqrt
from fl2ora.calibration.losses.base import Loss, LossContext


class SoftBinnedEce(Loss):
    """Soft-binned expected calibration error, in [0, 1].

    Args:
        num_bins: M, how many bins.
        temperature: T, in squared units of confidence; smaller is closer to hard bins.
        norm: 1 for the mean absolute gap, 2 for the root mean square gap.
    """

    is_penalty = True

    def __init__(self, num_bins: int = 15, temperature: float = 0.01, norm: int = 2) -> None:
        self.num_bins = whole("num_bins", num_bins, at_least=1, at_most=10_000)
        self.temperature = number("temperature", temperature, above=0)
        if norm not in (1, 2):
            raise ValueError(f"norm: expected 1 or 2, found {norm!r}")
        self.norm = norm

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty of ``logits (B, K)`` and ``labels (B,)``."""
        batch = read(logits, labels)
        confidence = batch.confidence
        bins = torch.arange(self.num_bins, dtype=confidence.dtype, device=confidence.device)
        centres = (bins + 0.5) / self.num_bins
        distance = (confidence[:, None] - centres).square()
        member = (-distance / self.temperature).softmax(1)
        excess = (member * (confidence - batch.correct)[:, None]).sum(0) / len(labels)
        if self.norm == 1:
            return excess.abs().sum()
        share = member.mean(0).clamp(min=torch.finfo(member.dtype).tiny)
        return safe_sqrt((share * (excess / share).square()).sum())
