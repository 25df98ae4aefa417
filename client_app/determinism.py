"""The same round twice, bit for bit, on a CUDA device too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def repeatable(device: torch.device, *, wanted: bool = True) -> Iterator[None]:
    """Keep to algorithms that give the same bits for the same input on the same device.

    On CUDA, the backward passes of torch's fused attention kernels and of some other operations add
    in whatever order threads arrive. Inside the block attention is computed plainly and torch picks
    deterministic algorithms where it has them; ``resolve_device`` has told cuBLAS so before. The
    processor needs nothing.

    Args:
        device: where the computation runs.
        wanted: False leaves everything as it is, for speed.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
