import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_examples import CONFIDENCE_A, CORRECT_A, random_predictions, rows_with

from fl2ora.calibration.metrics.adaptive import (
    adaptive_ece,
    adaptive_ece_of,
    group_cuts,
    mce_equal_mass,
    mce_equal_mass_of,
)
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


def by_array_split(confidence, correct, num_bins):
    """The same by numpy's own splitting into nearly equal parts, larger ones first."""
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split((confidence - correct)[order], num_bins)
    return sum(abs(part.sum()) for part in parts) / len(confidence)


def test_adaptive_ece_of_example_a():
    p, labels = rows_with(CONFIDENCE_A, CORRECT_A)
    groups = [0.15, 0.125, 0.075, 0.175, 0.475]
    assert adaptive_ece(p, labels, num_bins=5) == pytest.approx(sum(groups) / 5) == 0.2


def test_fewer_examples_than_bins_give_one_group_each():
    p, labels = rows_with([0.5, 0.9], [1, 0])
    assert adaptive_ece(p, labels) == pytest.approx((0.5 + 0.9) / 2)


def test_larger_groups_come_first():
    assert group_cuts(11, 4).tolist() == [0, 3, 6, 9, 11]
    assert group_cuts(2, 4).tolist() == [0, 1, 2]


def test_ties_keep_the_order_of_the_data():
    p, labels = rows_with([0.5] * 4, [1, 1, 0, 0])
    assert adaptive_ece(p, labels, num_bins=2) == 0.5
    order = [0, 2, 1, 3]
    assert adaptive_ece(p[order], labels[order], num_bins=2) == 0.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(1, 20))
def test_against_array_split(seed, n, num_bins):
    p, labels = random_predictions(seed, n, 4)
    expected = by_array_split(p.max(1), p.argmax(1) == labels, num_bins)
    assert adaptive_ece(p, labels, num_bins=num_bins) == pytest.approx(expected, abs=1e-12)


def test_from_sums_it_is_exact_where_cuts_fall_between_fine_bins():
    p, labels = rows_with(CONFIDENCE_A, CORRECT_A)
    stats = CalibrationStats.from_probabilities(p, labels, StatsSpec(num_bins=5, fine_bins=1000))
    value, bound = adaptive_ece_of(stats)
    assert value == pytest.approx(0.2)
    assert bound == 0.0


def test_one_fine_bin_for_all_shows_in_the_bound():
    # Confidences above .999, the wrong ones first: a histogram cannot tell, and says so.
    c = np.linspace(0.9991, 0.9999, 100)
    p, labels = rows_with(c, np.arange(100) >= 50)
    stats = CalibrationStats.from_probabilities(p, labels, StatsSpec(num_bins=2))
    value, bound = adaptive_ece_of(stats)
    exact = adaptive_ece(p, labels, num_bins=2)
    assert value == pytest.approx(0.5, abs=1e-3)
    assert exact == pytest.approx(0.5, abs=1e-3)
    assert bound == pytest.approx(0.5, abs=1e-3)  # 2 * 50 * 50 / 100 / 100


def test_adaptive_ece_without_examples_is_nan():
    assert math.isnan(adaptive_ece(np.zeros((0, 2)), np.zeros(0, np.int64)))
    assert math.isnan(adaptive_ece_of(CalibrationStats.zero()).value)
    p, labels = rows_with([0.5], [1])
    without = CalibrationStats.from_probabilities(p, labels, StatsSpec(fine_bins=0))
    assert math.isnan(adaptive_ece_of(without).bound)


def test_the_largest_gap_of_equal_mass_groups():
    # Ex-A in five groups of two: gaps .15, .125, .075, .175, .475.
    p, labels = rows_with(CONFIDENCE_A, CORRECT_A)
    assert mce_equal_mass(p, labels, num_bins=5) == pytest.approx(0.475)
    stats = CalibrationStats.from_probabilities(p, labels, StatsSpec(5))
    assert mce_equal_mass_of(stats).value == pytest.approx(0.475)


def test_the_largest_gap_of_uneven_groups_is_a_mean():
    # Five in two groups: .2 .3 .4 (one right) and .6 .7 (none right).
    p, labels = rows_with([0.2, 0.3, 0.4, 0.6, 0.7], [0, 1, 0, 0, 0])
    assert mce_equal_mass(p, labels, num_bins=2) == pytest.approx(0.65)
    assert mce_equal_mass(p, labels, num_bins=1) == pytest.approx(1.2 / 5)


def test_no_groups_are_nan():
    nothing = np.zeros((0, 2)), np.zeros(0, np.int64)
    assert math.isnan(mce_equal_mass(*nothing))
    assert math.isnan(mce_equal_mass_of(CalibrationStats.zero()).value)
    assert math.isnan(mce_equal_mass_of(CalibrationStats.zero(StatsSpec(fine_bins=0))).value)
