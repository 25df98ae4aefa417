"""Which prompts stand together in a tree of tokens, and what such a tree is.

A tree has every beginning that some of its prompts share once. All trees are padded to the largest,
and a token is weighed against all others of its tree, so trees are to be full and small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_PIECE = 32  # tokens of prompts that begin alike, beyond which they are cut
_LARGEST = 64  # tokens of a tree, unless a piece is larger
# A token's linear layers take as long as attention to so many others, forward and backward: with
# d = 512 on a CPU, where small products reach a third of what large ones do.
_LAYERS = 1_200


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


def groups(rows: Sequence[list[int]], beginning: int) -> list[list[int]]:
    """Return which prompts stand together, those that begin alike next to each other.

    Args:
        rows: the prompts' keys, without the ``beginning`` keys that all have.
        beginning: tokens to which every token of a tree attends beside the tree's.

    >>> groups([[1, 2], [1, 3], [4, 5]], beginning=0)
    [[0, 1, 2]]
    """
    pieces, sizes = _pieces(rows)
    largest = max(sizes)
    rooms = range(largest, max(largest, _LARGEST) + 1, 2)  # every second is fine enough
    tried = [_best_fit(sizes, room) for room in rooms]

    def cost(found: list[list[int]]) -> int:
        size = max(sum(sizes[piece] for piece in group) for group in found)
        return len(found) * size * (_LAYERS + beginning + size)

    best = min(tried, key=cost)
    return [[index for piece in group for index in pieces[piece]] for group in best]


def tokens_of(rows: Iterable[list[int]]) -> int:
    """Return how many tokens the tree of these prompts has."""
    tree = Tree()
    for row in sorted(rows):
        tree.add(row, 0)
    return len(tree.tokens)


def _pieces(rows: Sequence[list[int]]) -> tuple[list[list[int]], list[int]]:
    """Return prompts that begin alike, in order, and how many tokens they have together."""
    pieces: list[list[int]] = []
    sizes: list[int] = []
    before: Sequence[int] = ()
    for index in sorted(range(len(rows)), key=lambda index: rows[index]):
        row = rows[index]
        known = alike(row, before)
        if not known or sizes[-1] + len(row) - known > _PIECE:
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
