"""Blocks that keep only their inputs and compute the rest again in backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module) -> None:
    """Let a block recompute its activations while it is in training mode.

    Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174). Dropout draws the same values
    again. transformers' own switch would also make the embeddings require gradients, so that
    frozen towers and blocks before the first tuned one got a backward.
    """
    block.recomputes = True  # type: ignore[assignment]
    block.forward = partial(recomputed, block, block.forward)


def recomputed(
    block: nn.Module, forward: Callable[..., Any], *inputs: object, **options: Any
) -> Any:
    """Return what ``forward``, of the block or of a part of it, returns; see ``recompute``."""
    if not (block.training and getattr(block, "recomputes", False)):
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
