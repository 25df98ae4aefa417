"""What tokens of a tower attend to: all, those a mask allows, or a stem and a tree of their own.

With a stem, its tokens and those of all trees are one row for every layer but the attention, in
which keys and values of the stem stand before those of each tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import eager_attention_forward

from fl2ora.clip_tuning.packed_prompts import PackedPrompts


class Sight(NamedTuple):
    """What is added to what the attention weighs: 0, or minus infinity where nothing is seen.

    Attributes:
        mask: ``(G, 1, T, T)`` or ``(1, 1, T, T)``; None where all is seen. With a stem of B tokens
            ``(G, 1, T, B + T)``, of G trees.
        stem: ``(1, 1, B, B)``; None without a stem.
    """

    mask: Tensor | None = None
    stem: Tensor | None = None

    def picked(self, rows: int, pick: Callable[[Tensor], Tensor]) -> Sight:
        """Return what the tokens see that ``pick`` takes of states ``(rows, T, n)``.

        With a stem, of ``(1, B + G T, n)`` it takes ``(1, G E, n)``, E tokens of the first tree,
        then of the second, and so on.
        """
        if self.mask is None:
            return self
        if self.stem is None:
            return self._replace(mask=pick(self.mask[:, 0].expand(rows, -1, -1))[:, None])
        seen = self.mask.flatten(0, 2)
        before = seen.new_zeros(self.stem.shape[-1], seen.shape[1])
        found = pick(torch.cat([before, seen])[None])[0]
        return self._replace(mask=found.unflatten(0, (len(self.mask), -1))[:, None])

    def attend(self, attention: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return what queries find, in their shape.

        Args:
            attention: of transformers' CLIP or SigLIP, without dropout where there is a stem.
            queries: ``(G, T, d)``, or of what was picked ``(G, E, d)``; with a stem
                ``(1, B + G T, d)`` or ``(1, G E, d)``.
            keys: of all tokens.
            values: of all tokens.
        """
        if self.stem is None:
            return _attend(attention, queries, keys, values, self.mask)
        assert self.mask is not None
        length, trees = self.stem.shape[-1], len(self.mask)
        of_all = queries.shape[1] == keys.shape[1]  # those of trees alone are always fewer
        # A split has one gradient; of slices, each would have its own, filled up with zeros.
        parts = [length, keys.shape[1] - length]
        (first_keys, keys), (first_values, values) = (
            each.split(parts, 1) for each in (keys, values)
        )
        before: Tensor | None = None
        if of_all:
            first, queries = queries.split(parts, 1)
            before = _attend(attention, first, first_keys, first_values, self.stem)
        found = _attend(
            attention,
            queries[0].unflatten(0, (trees, -1)),
            _behind(first_keys, keys, trees),
            _behind(first_values, values, trees),
            self.mask,
        ).flatten(0, 1)[None]
        return found if before is None else torch.cat([before, found], dim=1)


ALL_SEEN = Sight()


def sight(packed: PackedPrompts, states: Tensor) -> Sight:
    """Return what tokens of packed prompts see, for the device and precision of their states."""
    if packed.mask is None:
        return ALL_SEEN
    kind, dtype = states.device.type, states.dtype
    if not states.is_meta and torch.is_autocast_enabled(kind):
        # Else every block would make and keep a copy of its own.
        dtype = torch.get_autocast_dtype(kind)
    full = torch.full_like(packed.mask, -torch.inf, dtype=dtype)
    mask = full.masked_fill_(packed.mask, 0.0)
    if not packed.stem:
        return Sight(mask)
    causal = mask.new_full((packed.stem, packed.stem), -torch.inf).triu(1)
    return Sight(mask, causal[None, None])


def _behind(stem: Tensor, own: Tensor, trees: int) -> Tensor:
    """Return ``(G, B + T, d)`` of ``(1, B, d)`` and ``(1, G T, d)``: each tree behind the stem."""
    return torch.cat([stem.expand(trees, -1, -1), own[0].unflatten(0, (trees, -1))], dim=1)


def _attend(
    attention: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> Tensor:
    """Return ``(G, E, d)`` by the way of attention that the model is set to."""
    way = attention.config._attn_implementation
    attend = ALL_ATTENTION_FUNCTIONS.get(way, eager_attention_forward)
    heads = [
        each.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for each in (queries, keys, values)
    ]
    found, _ = attend(attention, *heads, mask, scaling=attention.scale, is_causal=False)
    return found.reshape(queries.shape)  # type: ignore[no-any-return]
