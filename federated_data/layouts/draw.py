"""Parts of a list of files where no official split exists: seeded, stratified, by file name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = 0, 1, 2


def draw_parts(
    groups: Sequence[tuple[int, ...]],
    names: Sequence[str],
    validation: float,
    test: float,
    seed: int,
) -> NDArray[np.int64]:
    """Return the part of each file: ``TRAIN``, ``VALIDATION`` or ``TEST``.

    In every group the files are put into the order of a hash of the seed and their names; the
    first ones are for the test, those after them for validation, rounded to whole files; one at
    least stays to train on. So the parts depend on nothing but the names.

    Args:
        groups: of each file: its label, or its domain and label.
        names: of each file, relative to the data set.
        validation: share for validation, in [0, 1).
        test: share for the test, in [0, 1).
        seed: another one draws other parts.

    >>> draw_parts([(0,)] * 10, [f"{n}.jpg" for n in range(10)], 0.1, 0.2, seed=0).tolist()
    [0, 0, 0, 0, 0, 2, 1, 0, 2, 0]
    """
    parts = np.full(len(names), TRAIN, dtype=np.int64)
    members: dict[tuple[int, ...], list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    for rows in members.values():
        order = sorted(rows, key=lambda row: _place(seed, names[row]))
        tests = min(round(test * len(order)), len(order) - 1)
        validations = min(round(validation * len(order)), len(order) - 1 - tests)
        parts[order[:tests]] = TEST
        parts[order[tests : tests + validations]] = VALIDATION
    return parts


def _place(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
