"""Blocks of a tower in parts: where a stem is shared, and the last one for what is read of it.

CLIP reads one state of an image, that of the class token, and one of a text, that of its end. What
they attend to needs keys and values of every token; queries, the attention's output and the MLP,
five sixths of a block's arithmetic, are needed of the tokens read alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fl2ora.clip_tuning.recomputation import recomputed
from fl2ora.clip_tuning.sight import Sight


def whole_block(block: Any, hidden: Tensor, seen: Sight) -> Tensor:
    """Return ``block(hidden)``; with a stem, hooks of the block itself are not called.

    Args:
        block: of transformers' CLIP or SigLIP.
        hidden: ``(G, T, d)`` states before it.
        seen: by each token.
    """
    if seen.stem is None:
        found: Tensor = block(hidden, seen.mask)
    else:
        found = recomputed(block, _in_parts, block, hidden, seen, lambda states: states)
    return found


def last_block(block: Any, hidden: Tensor, seen: Sight, pick: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``pick(whole_block(block, hidden, seen))``, equal to rounding, gradients too.

    Layers with dropout see every token, so that they draw what they draw in a whole block.

    Args:
        block: of transformers' CLIP or SigLIP.
        hidden: ``(G, T, d)`` states before it.
        seen: by each token.
        pick: from ``(G, T, n)`` the E tokens of each row that are read, ``(G, E, n)``.
    """
    attention = block.self_attn
    if dropout_is_on(attention.out_proj, block.mlp) or (attention.training and attention.dropout):
        return pick(whole_block(block, hidden, seen))
    seen = seen.picked(len(hidden), pick)
    found: Tensor = recomputed(block, _in_parts, block, hidden, seen, pick)
    return found


def _in_parts(block: Any, hidden: Tensor, seen: Sight, pick: Callable[[Tensor], Tensor]) -> Tensor:
    attention = block.self_attn
    normed = block.layer_norm1(hidden)
    whole = dropout_is_on(attention.q_proj)
    queries = pick(attention.q_proj(normed)) if whole else attention.q_proj(pick(normed))
    keys, values = attention.k_proj(normed), attention.v_proj(normed)
    picked = pick(hidden) + attention.out_proj(seen.attend(attention, queries, keys, values))
    result: Tensor = picked + block.mlp(block.layer_norm2(picked))
    return result


def dropout_is_on(*modules: nn.Module) -> bool:
    """Whether any of them has dropout that is on."""
    layers = [each for module in modules for each in module.modules()]
    return any(isinstance(each, nn.Dropout) and each.training and each.p > 0 for each in layers)
