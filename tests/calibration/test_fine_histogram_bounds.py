"""Metrics from the fine histogram stay within the bound that they state."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_examples import random_predictions, rows_with

from fl2ora.calibration.metrics.adaptive import (
    adaptive_ece,
    adaptive_ece_of,
    mce_equal_mass,
    mce_equal_mass_of,
)
from fl2ora.calibration.metrics.classwise import classwise_ace, classwise_ace_of
from fl2ora.calibration.metrics.ks import ks_error, ks_error_of
from fl2ora.calibration.metrics.selective import (
    aurc,
    aurc_of,
    auroc,
    auroc_of,
    coverage_at_risk,
    coverage_at_risk_of,
    e_aurc,
    e_aurc_of,
)
from fl2ora.calibration.metrics.smooth import smooth_ece, smooth_ece_of
from fl2ora.calibration.stats import CalibrationStats, StatsSpec

ROUNDING = 1e-7

# Confidences on a coarse lattice (many ties, values at bin edges) and anywhere.
confidences = st.one_of(
    st.integers(1, 20).map(lambda i: i / 20), st.floats(0.02, 1.0), st.floats(0.99, 1.0)
)
examples = st.lists(st.tuples(confidences, st.integers(0, 1)), min_size=1, max_size=40)
fine_bins = st.sampled_from([1, 3, 20, 100, 1000])


def pooled_and_stats(rows, fine):
    confidence, correct = np.array(rows).T
    p, labels = rows_with(confidence, correct, num_classes=200)
    spec = StatsSpec(num_bins=4, fine_bins=fine)
    return p, labels, CalibrationStats.from_probabilities(p, labels, spec)


@settings(max_examples=200, deadline=None)
@given(examples, fine_bins)
def test_adaptive_ece(rows, fine):
    p, labels, stats = pooled_and_stats(rows, fine)
    value, bound = adaptive_ece_of(stats)
    assert abs(value - adaptive_ece(p, labels, num_bins=4)) <= bound + ROUNDING


@settings(max_examples=200, deadline=None)
@given(examples, fine_bins)
def test_ks(rows, fine):
    p, labels, stats = pooled_and_stats(rows, fine)
    value, bound = ks_error_of(stats)
    exact = ks_error(p, labels)
    assert value - ROUNDING <= exact <= value + bound + ROUNDING
    assert bound <= stats.fine_count.max() / len(rows) + ROUNDING


@settings(max_examples=200, deadline=None)
@given(examples, fine_bins)
def test_aurc(rows, fine):
    p, labels, stats = pooled_and_stats(rows, fine)
    value, bound = aurc_of(stats)
    assert abs(value - aurc(p, labels)) <= bound + ROUNDING
    value, bound = e_aurc_of(stats)
    assert abs(value - e_aurc(p, labels)) <= bound + ROUNDING


@settings(max_examples=200, deadline=None)
@given(examples, fine_bins)
def test_mce_equal_mass(rows, fine):
    p, labels, stats = pooled_and_stats(rows, fine)
    value, bound = mce_equal_mass_of(stats)
    assert abs(value - mce_equal_mass(p, labels, num_bins=4)) <= bound + ROUNDING


@settings(max_examples=200, deadline=None)
@given(examples, fine_bins)
def test_auroc(rows, fine):
    p, labels, stats = pooled_and_stats(rows, fine)
    value, bound = auroc_of(stats)
    exact = auroc(p, labels)
    assert math.isnan(value) == math.isnan(exact)
    assert math.isnan(exact) or abs(value - exact) <= bound + ROUNDING


@settings(max_examples=300, deadline=None)
@given(examples, fine_bins, st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]))
def test_coverage_at_risk(rows, fine, risk):
    p, labels, stats = pooled_and_stats(rows, fine)
    value, bound = coverage_at_risk_of(stats, risk=risk)
    exact = coverage_at_risk(p, labels, risk=risk)
    assert value - ROUNDING <= exact <= value + bound + ROUNDING
    assert value + bound <= 1 + ROUNDING


@settings(max_examples=40, deadline=None)
@given(examples, fine_bins)
def test_smooth_ece(rows, fine):
    p, labels, stats = pooled_and_stats(rows, fine)
    value, bound = smooth_ece_of(stats)
    assert abs(value - smooth_ece(p, labels)) <= bound + 1e-5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([1, 5, 200]))
def test_classwise_ace(seed, n, num_bins):
    p, labels = random_predictions(seed, n, 3)
    spec = StatsSpec(num_bins=num_bins, num_classes=3, classwise=True)
    stats = CalibrationStats.from_probabilities(p, labels, spec)
    value, bound = classwise_ace_of(stats, num_groups=4)
    assert abs(value - classwise_ace(p, labels, num_bins=4)) <= bound + ROUNDING


def test_a_thousand_fine_bins_are_close_on_realistic_data():
    p, labels = random_predictions(7, 20_000, 10)
    stats = CalibrationStats.from_probabilities(p, labels)
    pairs = {
        "ace": (adaptive_ece_of(stats), adaptive_ece(p, labels)),
        "ks": (ks_error_of(stats), ks_error(p, labels)),
        "smooth": (smooth_ece_of(stats), smooth_ece(p, labels)),
        "aurc": (aurc_of(stats), aurc(p, labels)),
        "auroc": (auroc_of(stats), auroc(p, labels)),
    }
    for name, (approximation, exact) in pairs.items():
        assert approximation.value == pytest.approx(exact, abs=3e-4), name
        assert approximation.bound < 0.01, name
