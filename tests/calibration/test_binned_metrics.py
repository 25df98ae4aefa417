import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_examples import (
    CONFIDENCE_A,
    CORRECT_A,
    LABELS_B,
    PROBABILITIES_B,
    bins_by_loop,
    random_predictions,
    rows_with,
)

from fl2ora.calibration.metrics import binned
from fl2ora.calibration.stats import CalibrationStats, StatsSpec

GOLDEN_A = {  # by hand from n = (2, 2, 2, 1, 3), |s| = (.15, .125, .075, .25, .85/3)
    "ece": 0.2 * 0.15 + 0.2 * 0.125 + 0.2 * 0.075 + 0.1 * 0.25 + 0.3 * 0.85 / 3,
    "mce": 0.85 / 3,
    "mce_weighted": 0.085,
    "average_ce": (0.15 + 0.125 + 0.075 + 0.25 + 0.85 / 3) / 5,
    "rmsce": math.sqrt(
        0.2 * (0.15**2 + 0.125**2 + 0.075**2) + 0.1 * 0.25**2 + 0.3 * (0.85 / 3) ** 2
    ),
    "over_confidence": 0.03 + 0.015 + 0.085,
    "under_confidence": 0.025 + 0.025,
    "overconfidence_error": 0.03 * 0.15 + 0.015 * 0.575 + 0.085 * 0.95,
    "debiased_ce": 0.0,
}


def stats_of(n, confidence, correct):
    """Return statistics with the given bin counts, mean confidences and accuracies."""
    n = np.array(n, float)
    arrays = CalibrationStats.zero(StatsSpec(num_bins=len(n), fine_bins=0)).to_arrays()
    sums = {"count": n, "confidence": n * confidence, "correct": n * correct}
    return CalibrationStats.from_arrays({**arrays, **sums}, StatsSpec(num_bins=len(n), fine_bins=0))


@pytest.mark.parametrize(("name", "expected"), GOLDEN_A.items())
def test_binned_metrics_of_example_a(name, expected):
    p, labels = rows_with(CONFIDENCE_A, CORRECT_A)
    assert getattr(binned, name)(p, labels, num_bins=5) == pytest.approx(expected, abs=1e-12)
    spec_values = {
        **{"ece": 0.18, "mce": 0.283333, "mce_weighted": 0.085, "average_ce": 0.176667},
        **{"rmsce": 0.197695, "over_confidence": 0.13, "under_confidence": 0.05},
        **{"overconfidence_error": 0.093875, "debiased_ce": 0.0},
    }
    assert expected == pytest.approx(spec_values[name], abs=1e-6)


@pytest.mark.parametrize("name", GOLDEN_A)
def test_torch_float32_and_the_stats_form_agree(name):
    p, labels = random_predictions(0, 500, 6)
    p = torch.from_numpy(p).float()
    labels = torch.from_numpy(labels)
    stats = CalibrationStats.from_probabilities(p, labels)
    assert getattr(binned, name)(p, labels) == getattr(binned, f"{name}_of")(stats)


def test_debiased_square_of_example_a_is_negative():
    p, labels = rows_with(CONFIDENCE_A, CORRECT_A)
    stats = CalibrationStats.from_probabilities(p, labels, StatsSpec(num_bins=5))
    # w_b (s_b^2 - acc (1 - acc) / (n - 1)); the bin of one example counts 0
    expected = (
        0.2 * 0.15**2
        + 0.2 * (0.125**2 - 0.25)
        + 0.2 * (0.075**2 - 0.25)
        + 0.3 * ((0.85 / 3) ** 2 - (2 / 9) / 2)
    )
    assert binned.debiased_squared_ce_of(stats) == pytest.approx(expected)
    assert expected == pytest.approx(-0.1005, abs=5e-5)


def test_debiased_example_of_two_bins():
    stats = stats_of([20, 30], [0.6, 0.8], [0.5, 0.9])
    assert binned.rmsce_of(stats) == pytest.approx(0.1)
    square = 0.4 * (0.01 - 0.25 / 19) + 0.6 * (0.01 - 0.09 / 29)
    assert binned.debiased_squared_ce_of(stats) == pytest.approx(square)
    assert square == pytest.approx(0.002875, abs=1e-6)
    assert binned.debiased_ce_of(stats) == pytest.approx(0.053617, abs=1e-6)


def test_confidence_form_of_example_b():
    assert binned.ece(PROBABILITIES_B, LABELS_B, num_bins=5) == pytest.approx(0.15)


def test_everything_in_the_last_bin_is_not_lost():
    # All confidences exactly 1 and a quarter right: code that drops c = 1 reports 0.
    p, labels = rows_with(np.ones(8), [1, 1, 0, 0, 0, 0, 0, 0])
    assert binned.ece(p, labels, num_bins=10) == 0.75
    assert binned.mce(p, labels, num_bins=10) == 0.75


def test_mce_can_ignore_thin_bins():
    stats = stats_of([100, 1], [0.8, 0.95], [0.75, 0.0])
    assert binned.mce_of(stats) == pytest.approx(0.95)
    assert binned.mce_of(stats, min_count=2) == pytest.approx(0.05)
    assert math.isnan(binned.mce_of(stats, min_count=101))


def test_mce_says_how_many_examples_decide_it():
    # Gaps .2 of nine examples and .6 of one; then .5 of one and of two: the fuller bin counts.
    p, labels = rows_with([0.8] * 9 + [0.6], [1] * 9 + [0])
    assert binned.mce_count_of(binned.bin_stats(p, labels, 10)) == 1
    p, labels = rows_with([0.5, 1.0, 1.0], [0, 0, 1])
    assert binned.mce_count_of(binned.bin_stats(p, labels, 4)) == 2
    assert math.isnan(binned.mce_count_of(CalibrationStats.zero()))


def test_reliability_bins_leave_out_empty_ones():
    bins = binned.filled_bins_of(stats_of([4, 0, 6], [0.2, 0, 0.9], [0.5, 0, 0.5]))
    assert bins.index.tolist() == [0, 2]
    assert bins.weight.tolist() == [0.4, 0.6]
    np.testing.assert_allclose(bins.gap, [-0.3, 0.4])


@pytest.mark.parametrize("name", GOLDEN_A)
def test_no_examples_are_nan(name):
    value = getattr(binned, name)(np.zeros((0, 3)), np.zeros(0, np.int64))
    assert math.isnan(value)
    assert type(value) is float


@pytest.mark.parametrize("metric", [binned.ece, binned.mce])
def test_one_class_is_no_classification(metric):
    with pytest.raises(ValueError, match=r"K >= 2, found \(5, 1\)"):
        metric(np.ones((5, 1)), np.zeros(5, np.int64))


probabilities_and_labels = st.tuples(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 6))


@settings(max_examples=50, deadline=None)
@given(probabilities_and_labels, st.integers(1, 30))
def test_bounds_identities_and_an_independent_loop(example, num_bins):
    p, labels = random_predictions(*example)
    stats = CalibrationStats.from_probabilities(p, labels, StatsSpec(num_bins=num_bins))
    ece, mce = binned.ece_of(stats), binned.mce_of(stats)
    over, under = binned.over_confidence_of(stats), binned.under_confidence_of(stats)
    assert 0 <= binned.mce_weighted_of(stats) <= ece + 1e-12
    assert ece <= binned.rmsce_of(stats) + 1e-12
    assert binned.rmsce_of(stats) <= mce + 1e-12 <= 1 + 1e-12
    assert over + under == pytest.approx(ece, abs=1e-12)
    gap = binned.confidence_of(stats) - binned.accuracy_of(stats)
    assert over - under == pytest.approx(gap, abs=1e-12)
    n, c, a = bins_by_loop(p.max(1), p.argmax(1) == labels, num_bins)
    assert ece == pytest.approx(np.abs(c - a).sum() / n.sum(), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(probabilities_and_labels, st.randoms(use_true_random=False))
def test_neither_order_nor_class_names_matter(example, random):
    p, labels = random_predictions(*example)
    rows = random.sample(range(len(p)), len(p))
    classes = np.array(random.sample(range(p.shape[1]), p.shape[1]))
    renamed = np.argsort(classes)[labels]
    for name in ("ece", "mce", "rmsce"):
        metric = getattr(binned, name)
        assert metric(p[rows], labels[rows]) == pytest.approx(metric(p, labels), abs=1e-12)
        assert metric(p[:, classes], renamed) == pytest.approx(metric(p, labels), abs=1e-12)
