"""The last block of a tower, for the tokens whose states are read and no others.

CLIP reads one state of an image, that of the class token, and one of a text, that of its end. What
they attend to needs keys and values of every token; queries, the attention's output and the MLP,
five sixths of a block's arithmetic, are needed of the tokens read alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import eager_attention_forward

from fl2ora.clip_tuning.recomputation import recomputed


def last_block(
    block: Any, hidden: Tensor, mask: Tensor | None, pick: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return ``pick(block(hidden, mask))``, equal to rounding, gradients too.

    Layers with dropout see every token, so that they draw what they draw in a whole block.

    Args:
        block: of transformers' CLIP or SigLIP.
        hidden: ``(G, T, d)`` states before it.
        mask: ``(G, 1, T, T)`` or ``(1, 1, T, T)``, added to what the attention weighs; or None.
        pick: from ``(G, T, n)`` the E tokens of each row that are read, ``(G, E, n)``.
    """
    attention = block.self_attn
    if dropout_is_on(attention.out_proj, block.mlp) or (attention.training and attention.dropout):
        return pick(block(hidden, mask))
    found: Tensor = recomputed(block, _picked, block, hidden, mask, pick)
    return found


def _picked(
    block: Any, hidden: Tensor, mask: Tensor | None, pick: Callable[[Tensor], Tensor]
) -> Tensor:
    attention = block.self_attn
    normed = block.layer_norm1(hidden)
    whole = dropout_is_on(attention.q_proj)
    queries = pick(attention.q_proj(normed)) if whole else attention.q_proj(pick(normed))
    keys, values = attention.k_proj(normed), attention.v_proj(normed)
    if mask is not None:
        mask = pick(mask[:, 0].expand(len(hidden), -1, -1))[:, None]
    attend = ALL_ATTENTION_FUNCTIONS.get(
        attention.config._attn_implementation, eager_attention_forward
    )
    heads = [
        each.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for each in (queries, keys, values)
    ]
    found, _ = attend(attention, *heads, mask, scaling=attention.scale, is_causal=False)
    picked = pick(hidden) + attention.out_proj(found.reshape(queries.shape))
    result: Tensor = picked + block.mlp(block.layer_norm2(picked))
    return result


def dropout_is_on(*modules: nn.Module) -> bool:
    """Whether any of them has dropout that is on."""
    layers = [each for module in modules for each in module.modules()]
    return any(isinstance(each, nn.Dropout) and each.training and each.p > 0 for each in layers)
