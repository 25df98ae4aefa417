"""Where learned context vectors stand in the prompts of many names.

CoOp, Zhou et al. 2021, arXiv 2109.01134. A prompt is a template whose first tokens are replaced by
vectors. If there are more vectors than tokens before the name, the others stand before the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fl2ora.clip_tuning.prompts import fill_templates
from fl2ora.experiment.errors import UserError

POSITIONS = ("end", "middle", "front")


@dataclass(frozen=True)
class ContextSettings:
    """What the context vectors are at first and where they stand.

    Attributes:
        length: n, how many vectors.
        init: ``template``: the words before ``{}`` in the first template; ``noise``: no words;
            anything else: these words.
        position: of the class name: at the ``end`` of the context, in its ``middle`` or in
            ``front`` of it.
        class_specific: vectors of its own for every class, not one set for all.
        extra: what vectors beyond the words are at first, where there are words: ``noise`` or
            ``zeros``.
    """

    length: int = 16
    init: str = "template"
    position: str = "end"
    class_specific: bool = False
    extra: str = "noise"

    def template(self, templates: Sequence[str]) -> str:
        """Return the text in which the first tokens become vectors, with ``{}`` for the class."""
        if self.init == "template":
            return templates[0]
        if self.init == "noise":
            return "{}."
        return self.init if "{}" in self.init else f"{self.init.strip()} {{}}."


class Layout(NamedTuple):
    """The prompts of n names, padded to the longest, L tokens.

    Attributes:
        ids: ``(n, L)`` token ids; those under a vector do not matter.
        slots: ``(n, L)`` index of the vector in a place, or -1.
        ends: ``(n,)`` position of the end of text.
    """

    ids: Tensor
    slots: Tensor
    ends: Tensor


def lay_out(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    names: Sequence[str],
    settings: ContextSettings,
    longest: int,
) -> Layout:
    """Return the prompts of ``names``.

    Raises:
        UserError: a prompt has more than ``longest`` tokens, or the template's words have other
            tokens next to some name.
    """
    words = [_tokens(tokenizer, template, name, settings.position) for name in names]
    rows = [_row(each, settings) for each in words]
    most = max(len(ids) for ids, _ in rows)
    if most > longest:
        name = names[[len(ids) for ids, _ in rows].index(most)]
        raise UserError(
            f"the prompt of {name!r} has {most} tokens with {settings.length} context vectors; the "
            f"text tower takes {longest}"
        )
    padding = words[0].end
    return Layout(
        torch.tensor([ids + [padding] * (most - len(ids)) for ids, _ in rows]),
        torch.tensor([slots + [-1] * (most - len(slots)) for _, slots in rows]),
        torch.tensor([len(ids) - 1 for ids, _ in rows]),
    )


def replaced_tokens(tokenizer: PreTrainedTokenizerBase, template: str, length: int) -> list[int]:
    """Return the tokens of ``template`` that the last of ``length`` vectors replace."""
    return _before(tokenizer, template)[:length]


def _before(tokenizer: PreTrainedTokenizerBase, template: str) -> list[int]:
    ids: list[int] = tokenizer(template.split("{}")[0].rstrip())["input_ids"]
    return ids[1:-1]


@dataclass(frozen=True)
class _Words:
    """One prompt in tokens: before the name, the name, after it; and what encloses it."""

    before: list[int]
    name: list[int]
    after: list[int]
    start: int
    end: int


def _tokens(tokenizer: PreTrainedTokenizerBase, template: str, name: str, position: str) -> _Words:
    """Return the tokens of ``template`` with ``name`` in it, cut at the name."""
    text = fill_templates([name], [template])[0]
    start, *body, end = tokenizer(text)["input_ids"]
    before, right = _before(tokenizer, template), template.split("{}")[1]
    # Punctuation alone may be another token than behind a word, so the text is cut, not its rest.
    named = body if position == "end" else tokenizer(text.removesuffix(right))["input_ids"][1:-1]
    name_end, after = len(named), body[len(named) :]
    if body[: len(before)] != before or body[:name_end] != named or name_end <= len(before):
        raise UserError(
            f"template {template!r}: expected words with the same tokens next to every name, "
            f"found others next to {name!r}; a space before {{}} may help"
        )
    return _Words(before, body[len(before) : name_end], after, start, end)


def _row(words: _Words, settings: ContextSettings) -> tuple[list[int], list[int]]:
    """Return token ids and, for each, the index of the vector in its place, or -1."""
    extra = max(0, settings.length - len(words.before))
    replaced = settings.length - extra
    context = [(words.start, slot) for slot in range(extra)]
    context += [(token, extra + i if i < replaced else -1) for i, token in enumerate(words.before)]
    cut = {"end": len(context), "middle": len(context) // 2, "front": 0}[settings.position]
    fixed = {key: [(token, -1) for token in getattr(words, key)] for key in ("name", "after")}
    row = [(words.start, -1), *context[:cut], *fixed["name"], *context[cut:], *fixed["after"]]
    ids, slots = zip(*row, (words.end, -1), strict=True)
    return list(ids), list(slots)
