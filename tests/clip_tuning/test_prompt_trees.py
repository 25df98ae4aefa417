"""Which prompts share a tree: every one is in one, trees are full, and no larger than pays."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl2ora.clip_tuning import prompt_trees
from fl2ora.clip_tuning.prompt_trees import Layout, Tree, filled, lay_out

KEYS = st.lists(st.integers(0, 2), min_size=1, max_size=6)


def tokens_of(rows: list[list[int]]) -> int:
    tree = Tree()
    for row in sorted(rows):
        tree.add(row, 0)
    return len(tree.tokens)


def beginnings(rows: list[list[int]]) -> int:
    return len({tuple(row[: i + 1]) for row in rows for i in range(len(row))})


@settings(deadline=None)
@given(st.lists(KEYS, min_size=1, max_size=12))
def test_a_tree_has_every_beginning_once(rows: list[list[int]]) -> None:
    assert tokens_of(rows) == beginnings(rows)
    one = filled(rows, most=6 * 12)
    assert one.size == beginnings(rows)
    assert [sorted(group) for group in one.groups] == [list(range(len(rows)))]


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
        patched.setattr(prompt_trees, "_PIECES", (piece,))
        patched.setattr(prompt_trees, "_LARGEST", largest)
        patched.setattr(prompt_trees, "_FILLED", (piece,))
        found = lay_out(rows, stem=0).groups
    assert sorted(row for group in found for row in group) == list(range(len(rows)))
    longest = max(map(len, rows))
    for group in found:
        assert tokens_of([rows[row] for row in group]) <= max(largest, piece, longest)


@pytest.mark.parametrize(
    ("prefixes", "length", "most"), [(2, 40, 1.05), (2, 25, 1.05), (8, 20, 1.6), (3, 20, 1.15)]
)
def test_long_beginnings_of_some_prompts_are_there_about_once(
    prefixes: int, length: int, most: float
) -> None:
    """As often as trees of 128 tokens must have them."""
    common = [[100 * each + i for i in range(length)] for each in range(prefixes)]
    rows = [[*common[i % prefixes], 5_000 + i, i] for i in range(40 * prefixes)]
    layout = lay_out(rows, stem=0)
    own, trees = 2 * len(rows), len(layout.groups)
    assert trees <= -(-own // (128 - length)) + prefixes
    assert trees * layout.size <= most * (own + trees * length)


def test_a_layout_costs_its_layers_and_what_its_tokens_attend_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prompt_trees, "_LAYERS", 100)
    monkeypatch.setattr(prompt_trees, "_JOINED", 7)
    layout = Layout([[0], [1, 2]], size=10)
    assert layout.cost(0) == 20 * (100 + 10)
    assert layout.cost(5) == 20 * (100 + 5 + 7 + 10) + 5 * 100


@pytest.mark.parametrize(
    ("lengths", "stem", "sizes"),
    [
        ([4] * 8, 0, [4] * 8),  # as small as they get, where all are full
        ([4] * 7 + [5], 0, [33]),
        # Seven trees of 6 have one place of padding, and one of 41 attends to more: 42 * 1,206
        # is less than 41 * 1,241, and 42 * 3,246 is not less than 41 * 3,281.
        ([6] * 6 + [5], 0, [5] + [6] * 6),
        ([6] * 6 + [5], 2_000, [41]),
    ],
)
def test_trees_are_as_small_as_padding_lets_them(
    lengths: list[int], stem: int, sizes: list[int]
) -> None:
    rows = [[index, *range(length - 1)] for index, length in enumerate(lengths)]
    layout = lay_out(rows, stem)
    assert sorted(sum(lengths[row] for row in group) for group in layout.groups) == sizes
    assert layout.size == max(sizes)


def test_of_names_as_long_as_imagenets_little_is_padding() -> None:
    rng = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.28, 0.34, 0.2, 0.1, 0.05, 0.03])
    words = torch.multinomial(shares, 1000, replacement=True, generator=rng) + 1
    for before, attended in ((0, 5), (5, 0)):  # with a stem, and where nothing is shared
        lengths = (words + before + 2).tolist()
        rows = [[index, *range(length - 1)] for index, length in enumerate(lengths)]
        layout = lay_out(rows, attended)
        assert len(layout.groups) * layout.size < 1.05 * sum(lengths)
        assert layout.size <= 64
