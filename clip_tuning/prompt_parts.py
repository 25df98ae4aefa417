"""Many prompts through the text tower: in parts of a bearable size, each of them packed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPModel, SiglipModel

from fl2ora.clip_tuning.block_parts import dropout_is_on
from fl2ora.clip_tuning.packed_prompts import PackedPrompts
from fl2ora.clip_tuning.towers import pack_ids, text_from_states, text_states

_AT_ONCE = 1024  # prompts in one pass of the text tower


class PromptPart(NamedTuple):
    """Prompts of one pass.

    Attributes:
        ids: ``(N, L)`` tokens.
        packed: how they are laid out.
    """

    ids: Tensor
    packed: PackedPrompts


def parts_of(clip: CLIPModel | SiglipModel, ids: Tensor, shared: bool) -> list[PromptPart]:
    """Return ``ids (N, L)`` in parts.

    Args:
        clip: whose text tower they are for.
        ids: tokens.
        shared: see ``pack``.
    """
    with torch.inference_mode(False):  # autograd keeps indices
        return [PromptPart(part, pack_ids(clip, part, shared)) for part in ids.split(_AT_ONCE)]


def encode_parts(clip: CLIPModel | SiglipModel, parts: Iterable[PromptPart]) -> Tensor:
    """Return ``(N, D)`` projected features of the parts' prompts, not normalised."""
    features = []
    for ids, packed in parts:
        hidden = text_states(clip, ids, packed, first=0)
        features.append(text_from_states(clip, hidden, packed, first=0))
    return torch.cat(features)


def drops_out(clip: CLIPModel | SiglipModel) -> bool:
    """Whether dropout is on in the text tower, so that equal tokens get other states."""
    tower, attention = clip.text_model, clip.config.text_config.attention_dropout
    return bool(dropout_is_on(tower) or (tower.training and attention > 0))
