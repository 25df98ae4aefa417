"""Dropout and attention of several clients in one pass: what ``torch.func.vmap`` lacks.

It has no rule for attention on the CPU, and draws the same or different random numbers for all, but
never those that each of them would draw alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, CLIPModel, SiglipModel

from fl2ora.clip_tuning.dropout import Dropout, keep_mask
from fl2ora.clip_tuning.low_rank import LowRankLinear

_NAME = "fl2ora_joint"


@dataclass
class Streams:
    """Where the clients of a pass draw from.

    Attributes:
        generators: one per client of a pass, on CLIP's device. On the CPU, each draws what torch's
            global stream would give to the client alone.
        each: any tensor that ``vmap`` maps over, set in the function it maps: it makes dropout
            differ between clients even of what is still the same for all.
    """

    generators: Sequence[torch.Generator] = ()
    each: Tensor | None = None


@contextmanager
def joint_layers(clip: CLIPModel | SiglipModel, streams: Streams) -> Iterator[None]:
    """Let every client of a pass draw its own dropout, and all attend in one batch.

    Args:
        clip: in training, wrapped by peft or not; it is as before after the block.
        streams: what dropout draws from, looked at in every pass.
    """
    AttentionInterface.register(_NAME, _attend)
    configs = [clip.config.vision_config, clip.config.text_config]
    before = [config._attn_implementation for config in configs]
    # An attribute of the instance stands before the class's method.
    layers: list[nn.Module] = []
    for layer in clip.modules():
        if isinstance(layer, nn.Dropout) and layer.p > 0 and layer.training:
            layer.forward = partial(_drop, layer, streams)  # type: ignore[method-assign]
        elif isinstance(layer, LowRankLinear):
            layer.forward = layer.as_peft_does  # type: ignore[method-assign]
        else:
            continue
        layers.append(layer)
    for config in configs:
        config._attn_implementation = _NAME
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def _drop(layer: nn.Dropout, streams: Streams, values: Tensor) -> Tensor:
    ours = isinstance(layer, Dropout) and values.device.type == "cpu"
    given = values, streams.each, layer.p, streams.generators, ours
    found: Tensor = _Dropout.apply(*given)  # type: ignore[no-untyped-call]
    return found


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Do what transformers' own attention of this kind does."""
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    causal = causal and attention_mask is None and query.shape[2] > 1
    given = query, key, value, attention_mask, scaling, causal
    found: Tensor = _Attention.apply(*given)  # type: ignore[no-untyped-call]
    return found.transpose(1, 2).contiguous(), None


class _Attention(torch.autograd.Function):
    """Attention of ``(B, H, T, d)`` that runs as one of ``(k * B, H, T, d)`` under ``vmap``."""

    @staticmethod
    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float | None,
        causal: bool,
    ) -> Tensor:
        """Of what is the same for all clients, which nothing tuned went into."""
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, is_causal=causal
        )

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep nothing: see ``forward``."""

    @staticmethod
    def vmap(
        info: Any,
        dims: tuple[int | None, ...],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float | None,
        causal: bool,
    ) -> tuple[Tensor, int]:
        """Put all clients' rows into one batch."""
        clients = info.batch_size
        query, key, value = (
            _first(tensor, dim, clients).flatten(0, 1)
            for tensor, dim in zip((query, key, value), dims, strict=False)
        )
        if mask is not None and len(mask) > 1:
            mask = mask.repeat(clients, 1, 1, 1)
        found = _Attention.forward(query, key, value, mask, scale, causal)
        return found.unflatten(0, (clients, -1)), 0


class _Dropout(torch.autograd.Function):
    """Dropout that draws from one stream per client under ``vmap``."""

    @staticmethod
    def forward(
        values: Tensor,
        each: Tensor,
        share: float,
        generators: Sequence[torch.Generator],
        ours: bool,
    ) -> Tensor:
        """Never called: ``each`` is always mapped over."""
        raise AssertionError("dropout outside of a joint pass")

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep nothing."""

    @staticmethod
    def vmap(
        info: Any,
        dims: tuple[int | None, ...],
        values: Tensor,
        each: Tensor,
        share: float,
        generators: Sequence[torch.Generator],
        ours: bool,
    ) -> tuple[Tensor, int]:
        """Draw each client's own mask, as our ``Dropout`` or torch's does."""
        values = _first(values, dims[0], info.batch_size)
        kept = torch.empty(values.shape, dtype=values.dtype, device=values.device)
        for mask, generator in zip(kept, generators, strict=True):
            if ours:
                mask.copy_(keep_mask(mask.shape, share, generator))
            else:
                mask.bernoulli_(1 - share, generator=generator)
        return values * kept.div_(1 - share), 0


def _first(tensor: Tensor, dim: int | None, clients: int) -> Tensor:
    """Return ``tensor`` with the clients in front."""
    if dim is None:
        return tensor.expand(clients, *tensor.shape)
    return tensor.movedim(dim, 0)
