"""Forward passes through the towers in parts; those of CLIP let prompts in before any block.

The same arithmetic as transformers' own, block by block; with nothing inserted the features are
equal. Deep prompts as in VPT (Jia et al. 2022, arXiv 2203.12119) and MaPLe (Khattak et al. 2022,
arXiv 2210.03117): what the last block made of a prompt is replaced by the next block's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from transformers import CLIPModel, SiglipModel

from fl2ora.clip_tuning.block_parts import last_block, whole_block
from fl2ora.clip_tuning.packed_prompts import PackedPrompts, pack, whole
from fl2ora.clip_tuning.recomputation import recompute
from fl2ora.clip_tuning.sight import ALL_SEEN, Sight, sight

TOWERS = ("vision", "text")


def blocks(clip: CLIPModel | SiglipModel, tower: str) -> nn.ModuleList:
    """Return the transformer blocks of the ``vision`` or ``text`` tower."""
    layers = getattr(clip, f"{tower}_model").encoder.layers
    assert isinstance(layers, nn.ModuleList)
    return layers


def width(clip: CLIPModel | SiglipModel, tower: str) -> int:
    """Return the width d of the ``vision`` or ``text`` tower."""
    return int(getattr(clip.config, f"{tower}_config").hidden_size)


def recompute_activations(clip: CLIPModel | SiglipModel) -> None:
    """Let all blocks of both towers recompute their activations; see ``recompute``.

    Args:
        clip: wrapped by peft or not.
    """
    for tower in TOWERS:
        for block in blocks(clip, tower):
            recompute(block)


def check_insertable(clip: CLIPModel | SiglipModel) -> None:
    """Refuse a model that ``encode_text`` and ``encode_image`` do not know.

    Raises:
        ValueError: it is no CLIP.
    """
    found = clip.config.model_type
    if found != "clip":
        raise ValueError(
            f"expected a CLIP, since the method inserts vectors into its towers, found a model of "
            f"type {found!r}"
        )


def encode_text(
    clip: CLIPModel,
    embeddings: Tensor,
    packed: PackedPrompts,
    inserted: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Return ``(N, D)`` projected features, not normalised.

    Args:
        clip: not wrapped by peft.
        embeddings: ``(N, L, d)`` token embeddings without positions.
        packed: how the texts are laid out.
        inserted: by block index from 1, ``(n, d)`` or ``(N, n, d)`` prompts that replace positions
            1 to n before that block. With ``(N, n, d)`` no two texts may share a beginning.
    """
    hidden = embeddings.flatten(0, 1)[packed.tokens]
    hidden = hidden + clip.text_model.embeddings.position_embedding(packed.positions)
    seen = sight(packed, hidden)

    def enter(index: int, hidden: Tensor) -> Tensor:
        if not inserted or index not in inserted:
            return hidden
        owners = packed.tokens // embeddings.shape[1]
        return _with_first(hidden, inserted[index], packed.positions, owners)

    some = blocks(clip, "text")
    hidden = _through(some[:-1], hidden, seen, enter)
    return _end_text(clip, enter(len(some) - 1, hidden), seen, packed)


def _with_first(hidden: Tensor, prompts: Tensor, positions: Tensor, owners: Tensor) -> Tensor:
    """Replace positions 1 to n in ``hidden (R, S, d)`` by ``prompts (n, d)`` or ``(N, n, d)``."""
    slots, count = positions - 1, prompts.shape[-2]
    inside = (slots >= 0) & (slots < count)
    slots = slots.clamp(0, count - 1)
    replaced = prompts[slots] if prompts.ndim == 2 else prompts[owners, slots]
    return torch.where(inside[..., None], replaced.to(hidden.dtype), hidden)


def pack_ids(clip: CLIPModel | SiglipModel, ids: Tensor, shared: bool = True) -> PackedPrompts:
    """Return how the texts ``ids (N, L)`` are laid out; see ``pack``."""
    end = clip.config.text_config.eos_token_id
    if _is_siglip(clip):
        return whole(ids, torch.full_like(ids[:, 0], ids.shape[1] - 1), causal=False)
    # As transformers pools: configurations older than the id take the highest.
    ends = (ids if end == 2 else (ids == end).int()).argmax(dim=-1)
    return pack(ids, ends, shared)


def text_states(
    clip: CLIPModel | SiglipModel, ids: Tensor, packed: PackedPrompts, first: int
) -> Tensor:
    """Return the states ``(R, S, d)`` of ``ids (N, L)`` before block ``first``.

    ``text_from_states`` goes on from there.
    """
    embeddings = clip.text_model.embeddings
    hidden: Tensor = embeddings.token_embedding(ids.flatten()[packed.tokens])
    hidden = hidden + embeddings.position_embedding(packed.positions)
    return _through(
        blocks(clip, "text")[:first], hidden, sight(packed, hidden) if first else ALL_SEEN
    )


def text_from_states(
    clip: CLIPModel | SiglipModel, hidden: Tensor, packed: PackedPrompts, first: int
) -> Tensor:
    """Return ``(N, D)`` projected features, not normalised, from states before block ``first``."""
    seen = sight(packed, hidden)
    return _end_text(clip, _through(blocks(clip, "text")[first:-1], hidden, seen), seen, packed)


def _end_text(
    clip: CLIPModel | SiglipModel, hidden: Tensor, seen: Sight, packed: PackedPrompts
) -> Tensor:
    """Return ``(N, D)`` projected features from states ``(R, S, d)`` before the last block."""
    last = blocks(clip, "text")[-1]
    ends = last_block(last, hidden, seen, lambda states: states.flatten(0, 1)[packed.ends])
    pooled = clip.text_model.final_layer_norm(ends.flatten(0, 1)[packed.picks])
    project = clip.text_model.head if _is_siglip(clip) else clip.text_projection
    features: Tensor = project(pooled)
    return features


def encode_image(
    clip: CLIPModel, pixels: Tensor, inserted: Mapping[int, Tensor] | None = None
) -> Tensor:
    """Return ``(B, D)`` projected features, not normalised.

    Args:
        clip: not wrapped by peft.
        pixels: ``(B, 3, H, W)``.
        inserted: by block index, ``(n, d)`` prompts. Those of index 0 are appended after the
            patches, behind the positions and before the first normalisation; those of index i
            replace the last n tokens before block i.
    """
    vision, prompts = clip.vision_model, dict(inserted or {})
    hidden = vision.embeddings(pixels)
    patches = hidden.shape[1]
    if 0 in prompts:
        hidden = _with_last(hidden, prompts.pop(0))

    def enter(index: int, hidden: Tensor) -> Tensor:
        if index not in prompts:
            return hidden
        return _with_last(hidden[:, :patches], prompts[index])

    some = blocks(clip, "vision")
    hidden = _through(some[:-1], vision.pre_layrnorm(hidden), enter=enter)
    return _end_image(clip, enter(len(some) - 1, hidden))


def image_states(clip: CLIPModel | SiglipModel, pixels: Tensor, first: int) -> Tensor:
    """Return the states ``(B, L, d)`` of ``pixels (B, 3, H, W)`` before block ``first``."""
    vision = clip.vision_model
    hidden: Tensor = vision.embeddings(pixels)
    if not _is_siglip(clip):
        hidden = vision.pre_layrnorm(hidden)
    return _through(blocks(clip, "vision")[:first], hidden)


def image_from_states(clip: CLIPModel | SiglipModel, hidden: Tensor, first: int) -> Tensor:
    """Return ``(B, D)`` projected features, not normalised, from states before block ``first``."""
    return _end_image(clip, _through(blocks(clip, "vision")[first:-1], hidden))


def _end_image(clip: CLIPModel | SiglipModel, hidden: Tensor) -> Tensor:
    """Return ``(B, D)`` projected features from states ``(B, L, d)`` before the last block."""
    vision, last = clip.vision_model, blocks(clip, "vision")[-1]
    features: Tensor
    if _is_siglip(clip):  # its head attends to all
        features = vision.head(vision.post_layernorm(last(hidden, None)))
    else:
        pooled = last_block(last, hidden, ALL_SEEN, lambda states: states[:, :1])
        features = clip.visual_projection(vision.post_layernorm(pooled[:, 0]))
    return features


def _through(
    some: nn.ModuleList,
    hidden: Tensor,
    seen: Sight = ALL_SEEN,
    enter: Callable[[int, Tensor], Tensor] = lambda _, hidden: hidden,
) -> Tensor:
    """Return what ``some`` blocks make of ``hidden``, with ``enter`` before each."""
    for index, block in enumerate(some):
        hidden = whole_block(block, enter(index, hidden), seen)
    return hidden


def _is_siglip(clip: CLIPModel | SiglipModel) -> bool:
    return bool(clip.config.model_type == "siglip")


def _with_last(hidden: Tensor, prompts: Tensor) -> Tensor:
    """Append ``prompts (n, d)`` to every row of ``hidden (B, L, d)``."""
    return torch.cat([hidden, prompts.expand(len(hidden), -1, -1).to(hidden.dtype)], dim=1)
