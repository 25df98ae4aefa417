"""A classifier of which only upper blocks are tuned: what the lower ones compute is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor

from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.prefix.image_prefix import ImagePrefix, lasting
from fl2ora.clip_tuning.prompt_parts import drops_out
from fl2ora.clip_tuning.towers import (
    image_from_states,
    image_states,
    text_from_states,
    text_states,
)

_PARTS = {"vision": ("vision_model.", "visual_projection."), "text": ("text_model.", "text_proj")}


class UpperBlocksClassifier(ClipClassifier):
    """Knows from which block on each tower is tuned.

    Attributes:
        first_tuned: by tower, the index of the first block that is; 0 where nothing is known to be
            frozen, None where the tower is untouched.
    """

    first_tuned: dict[str, int | None]

    def tune_from(self, names: Iterable[str]) -> None:
        """Look up where the tuned parameters ``names`` are."""
        self.first_tuned = {tower: first_block(names, tower) for tower in _PARTS}
        self.images_frozen = self.first_tuned["vision"] is None
        self.classes_frozen = self.first_tuned["text"] is None

    @property
    def image_prefix(self) -> ImagePrefix | None:
        """The lower blocks of the vision tower, or all of it."""
        first = self.first_tuned["vision"]
        if not first:
            return super().image_prefix
        return ImagePrefix(
            f"hidden states before block {first}",
            lambda pixels: image_states(self.clip, pixels, first),
            lambda hidden: unit(image_from_states(self.clip, hidden, first)),
        )

    def encode_classes(self) -> Tensor:
        """Return ``(K, D)`` unit features of the classes' prompts."""
        first = self.first_tuned["text"]
        if not first:
            return super().encode_classes()
        shared = not drops_out(self.clip)
        parts, states = self.class_parts(shared), self._class_states(shared, first)
        features = [
            text_from_states(self.clip, hidden, part.packed, first)
            for hidden, part in zip(states, parts, strict=True)
        ]
        return self._per_name(unit(torch.cat(features)))

    def _class_states(self, shared: bool, first: int) -> list[Tensor]:
        """Return the states of ``class_parts`` before the first tuned block."""
        if shared not in self._kept_states:
            parts = self.class_parts(shared)
            with lasting(self.clip.device):
                states = [text_states(self.clip, ids, packed, first) for ids, packed in parts]
            self._kept_states[shared] = states
        return self._kept_states[shared]

    @cached_property
    def _kept_states(self) -> dict[bool, list[Tensor]]:
        return {}


def first_block(names: Iterable[str], tower: str) -> int | None:
    """Return the first block of a tower that the parameters ``names`` are in.

    0 if one of them is in no block, None if none is in the tower.
    """
    inside = [name for name in names if name.startswith(_PARTS[tower])]
    found = [re.match(r"\w+\.encoder\.layers\.(\d+)\.", name) for name in inside]
    return min((int(match[1]) if match else 0 for match in found), default=None)
