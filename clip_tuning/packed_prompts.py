"""Prompts packed for the text tower: what several begin with is computed once, padding never.

CLIP's text tower is causal: the states of "a photo of a" are the same in the prompt of every class,
and nothing behind the end of a text is seen by its feature. So the prompts are laid into trees in
which a beginning that several prompts share is there once, and a mask lets each token look at its
own prompt's tokens only. Where one tree would be too large, what all prompts begin with, the stem,
is there once for all trees; see ``stem``. Features and gradients are those of the prompts one by
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fl2ora.clip_tuning.prompt_trees import Tree, alike, filled, lay_out

_MOST = 128  # tokens of a tree that has all prompts
_WORTH = 0.8  # of the padded prompts' tokens; with more, a tree's mask costs what it saves


class PackedPrompts(NamedTuple):
    """N prompts of up to L tokens in R rows of S places.

    The rows are prompts, or trees of them. With a stem of B tokens there is one row: the stem,
    then G trees of T tokens, ``S = B + G T``.

    Attributes:
        tokens: ``(R, S)``, which of the ``N * L`` tokens stands in a place.
        positions: ``(R, S)``, its position in its prompt.
        mask: ``(R, 1, S, S)`` or ``(1, 1, S, S)``, True where a token may look; None where all
            look at all. With a stem, ``(G, 1, T, B + T)`` for the tokens of the trees.
        ends: ``(R, E)``, which of the ``R * S`` places are ends of prompts; a tree with fewer
            than others has its first place for the rest.
        picks: ``(N,)``, which of the ``R * E`` ends is that of a prompt.
        stem: B, or 0.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor | None
    ends: Tensor
    picks: Tensor
    stem: int = 0


def pack(keys: Tensor, ends: Tensor, shared: bool = True) -> PackedPrompts:
    """Lay prompts into trees, if that saves a fifth of their tokens; else leave them as they are.

    Args:
        keys: ``(N, L)`` whole numbers; tokens with equal keys, and equal ones before them, are the
            same vector in the same place.
        ends: ``(N,)`` position of each prompt's end.
        shared: whether a common beginning is there once. It must not be where states differ in
            spite of equal keys: with dropout, and with vectors of a class's own put in later.

    Example:
        "a cat ." and "a dog .", with 9 for the padding; only the "a" is common:

        >>> packed = pack(torch.tensor([[1, 5, 2, 9], [1, 6, 2, 9]]), torch.tensor([2, 2]))
        >>> packed.tokens.tolist(), packed.positions.tolist()
        ([[0, 1, 2, 5, 6]], [[0, 1, 2, 1, 2]])
        >>> packed.ends.tolist(), packed.picks.tolist()
        ([[2, 4]], [0, 1])
        >>> packed.mask[0, 0, 4].tolist()
        [True, False, False, True, True]
    """
    if keys.is_meta:  # has no values to compare
        return whole(keys, ends)
    lasts = ends.tolist()
    rows = [row[: last + 1] for row, last in zip(keys.tolist(), lasts, strict=True)]
    if not shared:
        rows = [[index, *row[1:]] for index, row in enumerate(rows)]
    one = filled(rows, most=keys.numel())  # all in one tree, which has every token once
    if one.size > _WORTH * keys.numel():
        return whole(keys, ends)
    stem, order = (0, one.groups) if one.size <= _MOST else _arranged(rows)
    packed = _laid([row[stem:] for row in rows], order, keys.shape[1], stem)
    if packed.tokens.numel() > _WORTH * keys.numel():
        return whole(keys, ends)
    tensors = {name: part for name, part in packed._asdict().items() if name != "stem"}
    return packed._replace(**{name: part.to(keys.device) for name, part in tensors.items()})


def _arranged(rows: Sequence[list[int]]) -> tuple[int, list[list[int]]]:
    """Return the stem that costs less, all that the prompts begin with or none, and the trees."""
    common = alike(min(rows), max(rows)) if len(rows) > 1 else 0
    stems = [0, min(common, min(map(len, rows)) - 1)]  # every prompt ends in a tree
    layouts = {stem: lay_out([row[stem:] for row in rows], stem) for stem in stems}
    best = min(stems, key=lambda stem: layouts[stem].cost(stem))
    return best, layouts[best].groups


def _laid(
    rows: Sequence[Sequence[int]], order: Sequence[Sequence[int]], length: int, stem: int
) -> PackedPrompts:
    """Return one tree for each of ``order``, which says which of ``rows`` it has.

    Rows are of texts of ``length`` tokens, padding and stem included, by which they are numbered.
    """
    trees, picks = [Tree() for _ in order], [(0, 0)] * len(rows)
    for index, (tree, some) in enumerate(zip(trees, order, strict=True)):
        for row in some:
            picks[row] = index, tree.add(rows[row], row * length + stem)
    tokens, ends = (
        _filled([[*part] for part in parts])
        for parts in zip(*((tree.tokens, tree.ends) for tree in trees), strict=True)
    )
    count, size = tokens.shape
    mask = torch.eye(size, dtype=torch.bool).repeat(count, 1, 1)
    for tree, seen in zip(trees, mask, strict=True):
        for place, looks in enumerate(tree.looks):
            seen[place, looks] = True
    numbers = torch.tensor([tree * ends.shape[1] + end for tree, end in picks])
    ends = ends + size * torch.arange(count)[:, None]
    if stem:
        tokens = torch.cat([torch.arange(stem), tokens.flatten()])[None]
        ends = ends.flatten()[None] + stem
        mask = torch.cat([mask.new_ones(count, size, stem), mask], dim=2)
    return PackedPrompts(tokens, tokens % length, mask[:, None], ends, numbers, stem)


def _filled(rows: list[list[int]]) -> Tensor:
    """Return rows of different lengths as a matrix, with zeros at their ends."""
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


def whole(ids: Tensor, ends: Tensor, causal: bool = True) -> PackedPrompts:
    """Return prompts ``(N, L)`` as they are, one after the other with their padding."""
    (count, length), device = ids.shape, ids.device
    tokens = torch.arange(count * length, device=device).view(count, length)
    positions = torch.arange(length, device=device).expand(count, length)
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    found, picks = tokens[:, :1] + ends[:, None], torch.arange(count, device=device)
    return PackedPrompts(tokens, positions, mask if causal else None, found, picks)
