"""Random streams: stable over versions and machines, and apart from each other.

The golden values come from ``printf`` and ``sha256sum``, not from Python; the first eight bytes of
the digest are halved to leave 63 bits.
"""

from __future__ import annotations

import itertools

import pytest

from fl2ora.experiment.seeds import derive_seed


@pytest.mark.parametrize(
    ("seed", "path", "digest"),
    [
        # printf '0\x1fsampling\x1f1' | sha256sum
        (0, ("sampling", 1), "f7519ee13a6aaa8b"),
        # printf '7\x1finitial-adapter' | sha256sum
        (7, ("initial-adapter",), "4405f1d5127eeb0e"),
        # printf '0' | sha256sum
        (0, (), "5feceb66ffc86f38"),
    ],
)
def test_seeds_never_change(seed: int, path: tuple[str | int, ...], digest: str) -> None:
    assert derive_seed(seed, *path) == int(digest, 16) // 2


def test_a_seed_fits_in_63_bits() -> None:
    seeds = [derive_seed(seed, "x") for seed in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_different_paths_have_different_streams() -> None:
    parts: list[str | int] = ["a", "b", "ab", 1, 2, 12]
    paths = [path for n in range(3) for path in itertools.product(parts, repeat=n)]
    seeds = {derive_seed(seed, *path) for seed in (0, 1, 12) for path in paths}
    assert len(seeds) == 3 * len(paths)
