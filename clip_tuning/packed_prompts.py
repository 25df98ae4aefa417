"""Prompts packed for the text tower: what several begin with is computed once, padding never.

CLIP's text tower is causal: the states of "a photo of a" are the same in the prompt of every class,
and nothing behind the end of a text is seen by its feature. So the prompts are laid into trees in
which a beginning that several prompts share is there once, and a mask lets each token look at its
own prompt's tokens only. Features and gradients are those of the prompts one by one.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

# Linear layers cost 12 d^2 a token, attention 2 d for each token of a tree: with 128 about 4 % more
# at d = 512. Fewer would repeat the common beginning more often.
_MOST = 128
_OWN = -(2**32)  # and below: keys that no other prompt has
_WORTH = 0.8  # of the padded prompts' tokens; with more, a tree's mask costs what it saves


class PackedPrompts(NamedTuple):
    """N prompts of up to L tokens in G trees of up to T tokens.

    Attributes:
        tokens: ``(G, T)``, which of the ``N * L`` tokens stands in a place.
        positions: ``(G, T)``, its position in its prompt.
        mask: ``(G, 1, T, T)`` or ``(1, 1, T, T)``, True where a token may look; None where all
            look at all.
        ends: ``(G, E)``, which of the ``G * T`` places are ends of prompts; a tree with fewer
            than E has its first place for the others.
        picks: ``(N,)``, which of the ``G * E`` ends is that of a prompt.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor | None
    ends: Tensor
    picks: Tensor


@dataclass
class _Tree:
    """Tokens of prompts that came in sorted order.

    Attributes:
        tokens: which tokens.
        positions: where in their prompts.
        looks: for each token, the places it may look at.
        row: the last prompt's keys.
        path: the last prompt's places.
        ends: the places where prompts end, and which of them comes how late.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    looks: list[list[int]] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)

    def shared(self, row: list[int]) -> int:
        """Return how many tokens ``row`` begins with that the last prompt begins with."""
        pairs = zip(row, self.row, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(row), len(self.row)))

    def add(self, row: list[int], first: int) -> int:
        """Add a prompt whose tokens are numbered from ``first``; return which end is its own."""
        known = self.shared(row)
        self.path = self.path[:known]
        for position in range(known, len(row)):
            self.path.append(len(self.tokens))
            self.tokens.append(first + position)
            self.positions.append(position)
            self.looks.append(list(self.path))
        self.row = row
        return self.ends.setdefault(self.path[-1], len(self.ends))


def pack(keys: Tensor, ends: Tensor, shared: bool = True, most: int = _MOST) -> PackedPrompts:
    """Lay prompts into trees, if that saves a fifth of their tokens; else leave them as they are.

    Args:
        keys: ``(N, L)`` numbers above -2^32; tokens with equal keys, and equal ones before them,
            are the same vector in the same place.
        ends: ``(N,)`` position of each prompt's end.
        shared: whether a common beginning is there once. It must not be where states differ in
            spite of equal keys: with dropout, and with vectors of a class's own put in later.
        most: tokens of a tree, unless a prompt is longer.

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
        rows = [[_OWN - index, *row[1:]] for index, row in enumerate(rows)]
    trees, placed = _evened(rows, keys.shape[1], most)
    size = max(len(tree.tokens) for tree in trees)
    if len(trees) * size > _WORTH * keys.numel():
        return whole(keys, ends)
    mask = torch.eye(size, dtype=torch.bool).repeat(len(trees), 1, 1)
    for tree, seen in zip(trees, mask, strict=True):
        for place, looks in enumerate(tree.looks):
            seen[place, looks] = True
    ends = _filled([[*tree.ends] for tree in trees])
    picks = torch.tensor([tree * ends.shape[1] + end for tree, end in placed])
    parts = (
        _filled([tree.tokens for tree in trees]),
        _filled([tree.positions for tree in trees]),
        mask[:, None],
        ends + size * torch.arange(len(trees))[:, None],
        picks,
    )
    return PackedPrompts(*(part.to(keys.device) for part in parts))


def _evened(
    rows: list[list[int]], length: int, most: int
) -> tuple[list[_Tree], list[tuple[int, int]]]:
    """Return as few trees as ``_laid`` does, and those as small as so many can be.

    All are padded to the largest, so that an emptier last one would cost as much as a full one.
    """
    sizes, count = range(max(map(len, rows)), most), len(_laid(rows, length, most)[0])
    index = bisect_left(sizes, True, key=lambda size: len(_laid(rows, length, size)[0]) <= count)
    return _laid(rows, length, sizes.start + index)


def _laid(
    rows: list[list[int]], length: int, most: int
) -> tuple[list[_Tree], list[tuple[int, int]]]:
    """Return trees, each as full as it gets, and the tree and the end of each of ``rows``.

    Rows are of texts of ``length`` tokens, padding included, by which tokens are numbered.
    """
    trees, placed = [_Tree()], [(0, 0)] * len(rows)
    for index in sorted(range(len(rows)), key=rows.__getitem__):
        tree, row = trees[-1], rows[index]
        if tree.tokens and len(tree.tokens) + len(row) - tree.shared(row) > most:
            tree = _Tree()
            trees.append(tree)
        placed[index] = len(trees) - 1, tree.add(row, index * length)
    return trees, placed


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
