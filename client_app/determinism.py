"""The same round twice, bit for bit, on a CUDA device too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fl2ora.experiment.errors import UserError


@contextmanager
def repeatable(device: torch.device, *, wanted: bool = True) -> Iterator[None]:
    """Keep to algorithms that give the same bits for the same input on the same device.

    On CUDA, the backward passes of torch's fused attention kernels and of some other operations add
    in whatever order threads arrive. Inside the block torch takes those of its algorithms that do
    not; ``resolve_device`` has told cuBLAS so before. The processor needs nothing.

    Args:
        device: where the computation runs.
        wanted: False leaves everything as it is, for speed.

    Raises:
        UserError: an operation of a method, loss or rule has no such algorithm.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = False  # which finds faults, but takes time
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        found = str(error).partition(" does not")[0]
        raise UserError(
            f"deterministic: expected operations that repeat bit by bit on a CUDA device, found "
            f"{found}, which does not; deterministic=false trains with it"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        settings.fill_uninitialized_memory = filled
