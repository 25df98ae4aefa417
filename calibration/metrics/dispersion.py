"""Text-feature dispersion: how far apart CLIP's class features are, a diagnostic without data.

Prompts whose class features lie closer together give less calibrated zero-shot predictions; the
server can log this of the aggregated model without any example. It is not an error and not
additive: all participants hold the same features, so there is nothing to add.

Sources: Yoon et al., "C-TPT: calibrated test-time prompt tuning for vision-language models via text
feature dispersion" (ICLR 2024, arXiv 2403.14119); Sharifdeen et al., "O-TPT" (CVPR 2025,
arXiv 2503.12096) for the distance from orthogonality.
"""

from __future__ import annotations

import torch
from torch import Tensor


def text_dispersion(text_features: Tensor) -> float:
    """Return ``(1/K) sum_j ||w_j - mean w||_2`` of unit ``text_features (K, D)``; in [0, 1]."""
    w = _features(text_features)
    return float(torch.linalg.vector_norm(w - w.mean(dim=0), dim=1).mean())


def orthogonality_gap(text_features: Tensor) -> float:
    """Return ``||W W^T - I||_F^2`` of unit ``text_features (K, D)``; 0 when all are orthogonal."""
    w = _features(text_features)
    return float((w @ w.T - torch.eye(len(w), dtype=w.dtype, device=w.device)).square().sum())


def _features(text_features: Tensor) -> Tensor:
    w = text_features.detach().cpu().double()
    if w.ndim != 2 or not len(w):
        raise ValueError(f"text_features must have shape (K, D), found {tuple(w.shape)}")
    norms = torch.linalg.vector_norm(w, dim=1)
    if not torch.allclose(norms, torch.ones_like(norms), atol=1e-2):
        raise ValueError(
            f"text_features must have unit length, found {float(norms.min()):.4g} to "
            f"{float(norms.max()):.4g}"
        )
    return w
