from __future__ import annotations

from fractions import Fraction
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl2ora.strategies.updates import WeightedMean

floats = st.floats(-1e6, 1e6, width=32, allow_nan=False)
terms = st.lists(st.tuples(floats, st.integers(1, 10**6)), min_size=1, max_size=30)


def mean_of(pairs: list[tuple[float, int]]) -> float:
    mean = WeightedMean()
    for value, weight in pairs:
        mean.add({"w": torch.tensor([value])}, weight)
    return float(mean.result()["w"])


@given(terms)
@settings(max_examples=200, deadline=None)
def test_mean_is_the_exact_rational_mean_rounded_once(pairs: list[tuple[float, int]]) -> None:
    exact = sum(Fraction(v) * w for v, w in pairs) / sum(w for _, w in pairs)
    assert mean_of(pairs) == float(torch.tensor(float(exact), dtype=torch.float64).float())


@given(terms, st.randoms())
@settings(max_examples=100, deadline=None)
def test_order_of_arrival_does_not_change_a_bit(
    pairs: list[tuple[float, int]], rng: Random
) -> None:
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    assert mean_of(shuffled) == mean_of(pairs)


@given(terms, st.integers(1, 1000))
@settings(max_examples=50, deadline=None)
def test_scaling_all_weights_changes_nothing(pairs: list[tuple[float, int]], factor: int) -> None:
    assert mean_of([(v, w * factor) for v, w in pairs]) == pytest.approx(mean_of(pairs), rel=1e-6)


def test_float32_alone_would_lose_what_this_keeps() -> None:
    pairs = [(1.0, 1)] + [(1e-8, 1)] * 1000
    assert mean_of(pairs) == pytest.approx((1 + 1e-5) / 1001, rel=1e-7)


def test_mean_of_no_updates_is_refused() -> None:
    with pytest.raises(ValueError, match="positive weight"):
        WeightedMean().result()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_impossible_weights_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        WeightedMean().add({"w": torch.zeros(1)}, weight)


def test_other_names_are_refused() -> None:
    mean = WeightedMean()
    mean.add({"w": torch.zeros(1)}, 1)
    with pytest.raises(ValueError, match="names differ"):
        mean.add({"v": torch.zeros(1)}, 1)


def test_memory_does_not_grow_with_the_number_of_updates() -> None:
    mean = WeightedMean()
    for _ in range(100):
        mean.add({"w": torch.ones(10)}, 1)
    held = sum(t.numel() for t in (*mean._high.values(), *mean._low.values()))
    assert held == 20
