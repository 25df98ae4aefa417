"""Which prompts stand together in a tree of tokens, and what such a tree is.

A tree has every beginning that some of its prompts share once. All trees are padded to the largest,
and a token is weighed against all others of its tree, so trees are to be full and small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# Tokens of prompts that begin alike, beyond which they are cut, so that what they share is there
# again. Large pieces pay where some prompts share much.
_PIECES = (32, 64, 128)
_LARGEST = 128  # tokens of a tree of pieces, unless one of them has more
_FILLED = (80, 96, 112, 128)  # tokens of trees that are filled in order
# A token's linear layers take as long as attention to so many others, forward and backward: with
# d = 512 on a CPU, where small products reach a third of what large ones do.
_LAYERS = 1_200
_JOINED = 40  # and putting a stem before each tree as long as attention to so many


@dataclass
class Tree:
    """Tokens of prompts that came one after the other, those that begin alike next to each other.

    Attributes:
        tokens: which tokens.
        looks: for each token, the places it may look at.
        row: the last prompt's keys.
        path: the last prompt's places.
        ends: the places where prompts end, and which of them comes how late.
    """

    tokens: list[int] = field(default_factory=list)
    looks: list[list[int]] = field(default_factory=list)
    row: Sequence[int] = ()
    path: list[int] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)

    def add(self, row: Sequence[int], first: int) -> int:
        """Add a prompt whose tokens are numbered from ``first``; return which end is its own."""
        known = alike(row, self.row)
        self.path = self.path[:known]
        for position in range(known, len(row)):
            self.path.append(len(self.tokens))
            self.tokens.append(first + position)
            self.looks.append(list(self.path))
        self.row = row
        return self.ends.setdefault(self.path[-1], len(self.ends))


def alike(row: Sequence[int], other: Sequence[int]) -> int:
    """Return with how many equal keys both begin.

    >>> alike([1, 5, 2], [1, 5, 3, 2])
    2
    """
    pairs = enumerate(zip(row, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(row), len(other)))


class Layout(NamedTuple):
    """Which prompts share a tree.

    Attributes:
        groups: the prompts of each tree, those that begin alike next to each other.
        size: how many tokens a tree has, to which all are padded.
    """

    groups: list[list[int]]
    size: int

    def cost(self, stem: int) -> int:
        """Return what all tokens cost, with the unit a token that one token attends to.

        Args:
            stem: tokens to which every token attends beside its tree's.
        """
        attended = stem + _JOINED + self.size if stem else self.size
        return len(self.groups) * self.size * (_LAYERS + attended) + stem * _LAYERS


def lay_out(rows: Sequence[list[int]], stem: int) -> Layout:
    """Return which prompts are to share a tree.

    Args:
        rows: the prompts' keys, without the ``stem`` keys that all begin with.
        stem: tokens to which every token attends beside its tree's.

    >>> lay_out([[1, 2], [1, 3], [4, 5]], stem=0)
    Layout(groups=[[0, 1, 2]], size=5)
    """
    layouts = [layout for most in _PIECES for layout in _fitted(rows, most)]
    layouts += [filled(rows, most) for most in _FILLED]
    return min(layouts, key=lambda layout: layout.cost(stem))


def filled(rows: Sequence[list[int]], most: int) -> Layout:
    """Return prompts in order, in trees of ``most`` tokens, each as full as it gets."""
    pieces, sizes = _pieces(rows, most, apart=False)
    return Layout(pieces, max(sizes))


def _fitted(rows: Sequence[list[int]], most: int) -> Iterator[Layout]:
    """Yield layouts of pieces of ``most`` tokens in trees of several sizes."""
    pieces, sizes = _pieces(rows, most, apart=True)
    largest = max(sizes)
    for room in range(largest, max(largest, min(2 * most, _LARGEST)) + 1, max(2, most // 16)):
        found = _best_fit(sizes, room)
        size = max(sum(sizes[piece] for piece in group) for group in found)
        yield Layout([[row for piece in group for row in pieces[piece]] for group in found], size)


def _pieces(rows: Sequence[list[int]], most: int, apart: bool) -> tuple[list[list[int]], list[int]]:
    """Return prompts in order, cut into pieces, and how many tokens each piece has.

    Args:
        rows: the prompts' keys.
        most: tokens of a piece, unless one prompt has more.
        apart: whether prompts that begin with different keys are never in one piece.
    """
    pieces: list[list[int]] = []
    sizes: list[int] = []
    before: Sequence[int] = ()
    for index in sorted(range(len(rows)), key=lambda index: rows[index]):
        row = rows[index]
        known = alike(row, before)
        if not pieces or (apart and not known) or sizes[-1] + len(row) - known > most:
            pieces.append([])
            sizes.append(0)
            known = 0
        pieces[-1].append(index)
        sizes[-1] += len(row) - known
        before = row
    return pieces, sizes


def _best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Return which pieces share a tree of at most ``room`` tokens, none of them larger than that.

    The largest comes first, each to where it leaves the least room (best fit decreasing).
    """
    found: list[list[int]] = []
    left: list[list[int]] = [[] for _ in range(room + 1)]  # by room, trees that have it
    for piece in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
        size = sizes[piece]
        fits = next((each for each in range(size, room + 1) if left[each]), None)
        if fits is None:
            fits, tree = room, len(found)
            found.append([])
        else:
            tree = left[fits].pop()
        found[tree].append(piece)
        left[fits - size].append(tree)
    return found
