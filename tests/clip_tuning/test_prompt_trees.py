"""Which prompts share a tree: every one is in one, trees are full, and no larger than pays."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl2ora.clip_tuning import prompt_trees
from fl2ora.clip_tuning.prompt_trees import Tree, groups, tokens_of

KEYS = st.lists(st.integers(0, 2), min_size=1, max_size=6)


def beginnings(rows: list[list[int]]) -> int:
    return len({tuple(row[: i + 1]) for row in rows for i in range(len(row))})


@settings(deadline=None)
@given(st.lists(KEYS, min_size=1, max_size=12))
def test_a_tree_has_every_beginning_once(rows: list[list[int]]) -> None:
    assert tokens_of(rows) == beginnings(rows)


def test_each_token_of_a_tree_looks_at_those_before_it_in_its_prompt() -> None:
    tree = Tree()
    assert [tree.add([1, 2, 3], 10), tree.add([1, 2], 20), tree.add([1, 5], 30)] == [0, 1, 2]
    assert tree.tokens == [10, 11, 12, 31]
    assert tree.looks == [[0], [0, 1], [0, 1, 2], [0, 3]]
    assert list(tree.ends) == [2, 1, 3]
    assert tree.add([1, 5], 40) == 2  # the same prompt again


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(9, 20))
def test_best_fit_puts_every_piece_in_one_tree_and_no_two_trees_fit_in_one(
    sizes: list[int], room: int
) -> None:
    found = prompt_trees._best_fit(sizes, room)
    assert sorted(piece for group in found for piece in group) == list(range(len(sizes)))
    filled = [sum(sizes[piece] for piece in group) for group in found]
    assert max(filled) <= room
    assert all(one + other > room for one, other in combinations(filled, 2))


def test_best_fit_leaves_the_least_room() -> None:
    """Of 6, 5, 4 and 3 in trees of 10, 4 goes to 6 and 3 to 5."""
    assert prompt_trees._best_fit([3, 4, 5, 6], room=10) == [[3, 1], [2, 0]]


@settings(deadline=None)
@given(st.lists(KEYS, min_size=1, max_size=30), st.integers(1, 8), st.integers(1, 20))
def test_every_prompt_is_in_one_tree_that_is_no_larger_than_it_may_be(
    rows: list[list[int]], piece: int, largest: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prompt_trees, "_PIECE", piece)
        patched.setattr(prompt_trees, "_LARGEST", largest)
        found = groups(rows, beginning=0)
    assert sorted(row for group in found for row in group) == list(range(len(rows)))
    longest = max(map(len, rows))
    for group in found:
        assert tokens_of([rows[row] for row in group]) <= max(largest, piece, longest)


def test_prompts_that_begin_alike_are_together_unless_they_are_too_many() -> None:
    rows = [[1, each] for each in range(40)] + [[2, each] for each in range(20)]
    found = groups(rows, beginning=0)
    sizes = [tokens_of([rows[row] for row in group]) for group in found]
    # Of those with 1, which no tree may have all of, 31 are together, and the rest have it again.
    assert sum(sizes) == beginnings(rows) + 1


@pytest.mark.parametrize(
    ("lengths", "beginning", "sizes"),
    [
        ([4] * 8, 0, [4] * 8),  # as small as they get, where all are full
        ([4] * 7 + [5], 0, [33]),
        # Seven trees of 6 have one place of padding, and one of 41 attends to more: 42 * 1,206
        # is less than 41 * 1,241, and 42 * 3,206 is not less than 41 * 3,241.
        ([6] * 6 + [5], 0, [5] + [6] * 6),
        ([6] * 6 + [5], 2_000, [41]),
    ],
)
def test_trees_are_as_small_as_padding_lets_them(
    lengths: list[int], beginning: int, sizes: list[int]
) -> None:
    rows = [[index, *range(length - 1)] for index, length in enumerate(lengths)]
    found = groups(rows, beginning)
    assert sorted(sum(lengths[row] for row in group) for group in found) == sizes


def test_of_names_as_long_as_imagenets_little_is_padding() -> None:
    rng = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.28, 0.34, 0.2, 0.1, 0.05, 0.03])
    words = torch.multinomial(shares, 1000, replacement=True, generator=rng) + 1
    for before, attended in ((0, 5), (5, 0)):  # with a stem, and where nothing is shared
        lengths = (words + before + 2).tolist()
        rows = [[index, *range(length - 1)] for index, length in enumerate(lengths)]
        found = groups(rows, attended)
        largest = max(sum(lengths[row] for row in group) for group in found)
        assert len(found) * largest < 1.05 * sum(lengths)
        assert largest <= 64
