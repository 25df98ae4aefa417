"""Learned context: vectors that stand in a text prompt where words would stand.

CoOp, Zhou et al. 2021, arXiv 2109.01134.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.packed_prompts import PackedPrompts, pack
from fl2ora.clip_tuning.prefix.image_prefix import lasting
from fl2ora.clip_tuning.prompt_layout import ContextSettings, Layout, lay_out, replaced_tokens
from fl2ora.clip_tuning.prompt_parts import drops_out
from fl2ora.clip_tuning.towers import check_insertable, encode_text

NOISE = 0.02
"""Standard deviation of vectors that no word initialises, as in CoOp's code."""


class ContextClassifier(ClipClassifier):
    """A classifier whose class features come from prompts with context vectors.

    Attributes:
        context: ``(n, d)`` or, if class-specific, ``(K, n, d)``.
        guide_templates: whose features ``guides`` are; empty: the classifier's own.
    """

    guide_templates: Sequence[str] = ()
    context_ids: Tensor
    context_slots: Tensor
    context_ends: Tensor

    def __init__(
        self,
        clip: Clip,
        class_names: Sequence[str],
        templates: Sequence[str],
        settings: ContextSettings,
    ) -> None:
        """Lay out the prompts of all classes and initialise the vectors.

        Raises:
            UserError: see ``lay_out``.
            ValueError: see ``check_insertable``.
        """
        check_insertable(clip.model)
        super().__init__(clip, class_names, templates)
        self.settings = settings
        for key, tensor in self._lay_out(class_names)._asdict().items():
            self.register_buffer(f"context_{key}", tensor, persistent=False)
        self.context = nn.Parameter(self.initial_context())

    @torch.no_grad()
    def initial_context(self) -> Tensor:
        """Return vectors to start from, ``(n, d)`` or ``(K, n, d)``: noise or zeros, then words."""
        settings = self.settings
        template = settings.template(self.templates)
        tokens = replaced_tokens(self.tokenizer, template, settings.length)
        table = self.clip.text_model.embeddings.token_embedding.weight
        words = table[torch.tensor(tokens, dtype=torch.int64, device=table.device)]
        sets = len(self.class_names) if settings.class_specific else 1
        missing = settings.length - len(tokens)
        start = noise(sets, missing, table.shape[1], like=table)
        if settings.extra == "zeros" and tokens:
            start = torch.zeros_like(start)
        vectors = torch.cat([start, words.expand(sets, -1, -1)], dim=1)
        return vectors if settings.class_specific else vectors[0]

    @cached_property
    def guides(self) -> Tensor:
        """``(K, D)`` unit zero-shot class features, which some methods hold to."""
        with lasting(self.clip.device):
            return self.zero_shot_classes(self.guide_templates)

    def make_context(self) -> Tensor:
        """Return the vectors in the prompts, ``(n, d)`` or ``(K, n, d)``."""
        return self.context

    def deep_text(self, names: Sequence[str] | None = None) -> dict[int, Tensor]:
        """Return prompts for later blocks of the text tower; see ``encode_text``.

        Args:
            names: whose prompts are encoded; None for the classes.
        """
        return {}

    def encode_classes(self) -> Tensor:
        """Return ``(K, D)`` unit features of the classes' prompts."""
        return self.encode_with(self.make_context())

    def encode_with(self, context: Tensor) -> Tensor:
        """Return ``(K, D)`` unit features of the classes' prompts with ``context`` in them."""
        layout = Layout(self.context_ids, self.context_slots, self.context_ends)
        return self._encode(layout, context, self.deep_text())

    def encode_names(self, names: Sequence[str]) -> Tensor:
        """Return ``(n, D)`` unit features of any names, each put where class names are put.

        Names have no vectors of their own: if the context is class-specific, its mean serves.
        """
        layout = Layout(*(tensor.to(self.context.device) for tensor in self._lay_out(names)))
        context = self.make_context()
        context = context if context.ndim == 2 else context.mean(dim=0)
        return self._encode(layout, context, self.deep_text(names))

    def _lay_out(self, names: Sequence[str]) -> Layout:
        template = self.settings.template(self.templates)
        return lay_out(self.tokenizer, template, names, self.settings, self.longest_prompt)

    def _encode(self, layout: Layout, context: Tensor, deep: dict[int, Tensor]) -> Tensor:
        words: Tensor = self.clip.text_model.embeddings.token_embedding(layout.ids)
        slots = layout.slots.clamp(min=0)
        if context.ndim == 2:
            learned = context[slots]
        else:
            learned = context.gather(1, slots[..., None].expand(-1, -1, context.shape[-1]))
        embeddings = torch.where(layout.slots[..., None] >= 0, learned, words)
        own = any(vectors.ndim == 3 for vectors in (context, *deep.values()))
        packed = self._packed(layout, shared=not (own or drops_out(self.clip)))
        return unit(encode_text(self.clip, embeddings, packed, deep))

    def _packed(self, layout: Layout, shared: bool) -> PackedPrompts:
        """Return how the prompts are laid out; those of the classes are kept."""
        of_classes = layout.ids is self.context_ids
        if of_classes and shared in self._kept_packs:
            return self._kept_packs[shared]
        keys = torch.where(layout.slots >= 0, -1 - layout.slots, layout.ids)
        with torch.inference_mode(False):  # autograd keeps indices
            packed = pack(keys, layout.ends, shared)
        if of_classes:
            self._kept_packs[shared] = packed
        return packed

    @cached_property
    def _kept_packs(self) -> dict[bool, PackedPrompts]:
        return {}


def noise(*shape: int, like: Tensor) -> Tensor:
    """Return normal noise of ``NOISE`` on the device of ``like``."""
    return NOISE * torch.randn(*shape, device=like.device)
