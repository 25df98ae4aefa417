"""Splits drawn where there is no official one."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.federated_data.layouts.draw import TEST, TRAIN, VALIDATION, draw_parts

SHARES = st.floats(0, 0.5)
GROUPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=60)


@given(GROUPS, SHARES, SHARES, st.integers(0, 2**31 - 1))
def test_every_group_is_divided_by_the_shares(
    groups: list[tuple[int, ...]], validation: float, test: float, seed: int
) -> None:
    names = [f"{number}.jpg" for number in range(len(groups))]
    parts = draw_parts(groups, names, validation, test, seed)
    for group, count in Counter(groups).items():
        own = Counter(int(parts[row]) for row, other in enumerate(groups) if other == group)
        assert own[TRAIN] >= 1
        assert own[TEST] == min(round(test * count), count - 1)
        assert own[VALIDATION] == min(round(validation * count), count - 1 - own[TEST])


@given(GROUPS, st.integers(0, 2**31 - 1), st.randoms(use_true_random=False))
def test_the_order_of_the_files_plays_no_part(
    groups: list[tuple[int, ...]], seed: int, random: object
) -> None:
    names = [f"{number}.jpg" for number in range(len(groups))]
    order = list(range(len(groups)))
    random.shuffle(order)  # type: ignore[attr-defined]
    parts = draw_parts(groups, names, 0.2, 0.3, seed)
    moved = draw_parts(
        [groups[row] for row in order], [names[row] for row in order], 0.2, 0.3, seed
    )
    assert np.array_equal(parts[order], moved)
