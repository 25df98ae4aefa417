"""Paired tests: known answers, agreement with scipy, and how often they claim what is not so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fl2ora.calibration.comparison import compare_on_same_examples
from fl2ora.calibration.paired_tests import holm, merged, seeds_test, sign_flip_test
from fl2ora.calibration.predictions import Scores


def test_random_swaps_agree_with_the_t_test_of_many_images() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal([[0.0], [0.05], [0.1]], 1.0, size=(3, 1500))
    found = sign_flip_test(differences, resamples=4000)
    expected = stats.ttest_1samp(differences, 0.0, axis=1).pvalue
    assert found == pytest.approx(expected, abs=0.02)


def test_the_smallest_p_value_is_that_of_one_draw_more_than_there_were() -> None:
    differences = np.tile([1.0, 2.0], (1, 50))
    assert sign_flip_test(differences, resamples=99)[0] == pytest.approx(0.01)
    assert math.isnan(sign_flip_test(np.array([[np.inf, 1.0]]), resamples=9)[0])
    with pytest.raises(ValueError, match=r"expected \(T, N\) with N >= 1"):
        sign_flip_test(np.zeros((2, 0)))


@pytest.mark.parametrize("n", [1, 2, 5, 11, 300])
def test_of_accuracy_it_is_mcnemars_exact_test(n: int) -> None:
    rng = np.random.default_rng(n)
    differences = rng.choice([-1.0, 0.0, 1.0], p=[0.15, 0.5, 0.35], size=(6, n))
    expected = []
    for row in differences:
        more, less = int((row > 0).sum()), int((row < 0).sum())
        both = more + less
        expected.append(stats.binomtest(more, both).pvalue if both else 1.0)
    exact = n <= 11
    found = sign_flip_test(differences, resamples=4000)
    assert found == pytest.approx(expected, abs=1e-12 if exact else 0.03)


# Eighths: their sums are exact, else scipy takes rounded ties for differences.
@given(st.lists(st.integers(-40, 40).map(lambda x: x / 8), min_size=1, max_size=8))
def test_of_few_images_it_is_scipys_test_of_all_swaps(differences: list[float]) -> None:
    values = np.array(differences)
    expected = (
        stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=np.inf
        ).pvalue
        if len(values) > 1
        else 1.0
    )
    assert sign_flip_test(values[None])[0] == pytest.approx(expected)


@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_few_images_are_no_proof(n: int) -> None:
    """1500 pairs of equal models: claims stay below 0.05 but for chance, 0.068 at 3.3 errors."""
    rng = np.random.default_rng(n)
    for differences in (rng.normal(size=(1500, n)), rng.choice([-1.0, 0.0, 1.0], (1500, n))):
        p_values = sign_flip_test(differences, resamples=1000)
        assert (p_values < 0.05).mean() < 0.068


def test_false_claims_over_images_are_as_rare_as_they_should_be() -> None:
    """400 pairs of models of equal accuracy on 300 images: about 5 % at 0.05, of one seed."""
    rng = np.random.default_rng(1)
    right = rng.random((2, 400, 300)) < 0.7
    p_values = sign_flip_test(right[0].astype(float) - right[1], resamples=400)
    # Binomial: a rate of 0.05 gives 0.08 and more with a chance of less than 0.005.
    assert 0.02 < (p_values < 0.05).mean() < 0.08


def test_merging_seeds_does_not_make_false_claims_whatever_they_share() -> None:
    rng = np.random.default_rng(2)
    for shared in (0.0, 0.5, 0.99):
        common, own = rng.normal(size=(4000, 1)), rng.normal(size=(4000, 5))
        z = math.sqrt(shared) * common + math.sqrt(1 - shared) * own
        p_values = 2 * stats.norm.sf(abs(z))
        assert np.mean([merged(list(row)) < 0.05 for row in p_values]) < 0.06


def test_merged_p_values() -> None:
    assert merged([0.3]) == 0.3
    assert merged([0.01, 0.02]) == 0.04
    assert merged([0.9, 0.8, 0.7]) == 1.0
    assert math.isnan(merged([0.1, math.nan, 0.2]))
    assert math.isnan(merged([]))


@given(
    st.lists(
        st.floats(-1, 1).filter(lambda x: abs(x) > 1e-3), min_size=2, max_size=8, unique_by=abs
    )
)
def test_over_seeds_it_is_scipys_wilcoxon(differences: list[float]) -> None:
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert seeds_test(differences) == pytest.approx(expected)
    assert seeds_test(differences) >= 2 / 2 ** len(differences) - 1e-12


def test_over_seeds_nothing_can_be_said_of_one_and_equal_ones_do_not_differ() -> None:
    assert math.isnan(seeds_test([0.3]))
    assert math.isnan(seeds_test([0.3, math.nan]))
    assert seeds_test([0.0, 0.0, 0.0]) == 1.0


def test_holms_correction_of_a_worked_example() -> None:
    """Of 0.01, 0.02, 0.03 and 0.04: 4*0.01, 3*0.02, then 0.06 and 0.06, as they never fall."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    found = holm([0.5, math.nan, 0.6])
    assert found[0] == found[2] == 1.0
    assert math.isnan(found[1])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_corrects_upwards_keeps_the_order_and_is_no_stricter_than_bonferroni(
    p_values: list[float],
) -> None:
    found = holm(p_values)
    for before, after in zip(p_values, found, strict=True):
        assert before <= after <= 1
        assert (
            after <= len(p_values) * before
            or after == max(found)
            or after <= max(x for x, y in zip(found, p_values, strict=True) if y <= before)
        )
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()


def test_false_claims_of_better_calibration_are_rare() -> None:
    """120 pairs of perfectly calibrated models on 300 shared images."""
    rng = np.random.default_rng(3)
    claims = 0
    for seed in range(120):
        confidence = rng.uniform(0.4, 1.0, size=(2, 300))
        draw = rng.random(300)
        sides = []
        for c in confidence:
            right, none = (draw < c).astype(float), np.zeros(300)
            sides.append(Scores(c, right, none.astype(int), none, none))
        claims += compare_on_same_examples(*sides, seed=seed).p_value < 0.05
    assert claims / 120 < 0.11
