import math

import numpy as np
import pytest
from known_examples import CONFIDENCE_A, CORRECT_A, rows_with

from fl2ora.calibration.metrics.ks import ks_error, ks_error_of
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


def test_ks_error_of_example_a():
    # Running sums of c - a: .1 .3 -.35 .05 -.4 .2 -.05 -.15 .8 .8
    assert ks_error(*rows_with(CONFIDENCE_A, CORRECT_A)) == pytest.approx(0.08)
    running = np.cumsum(CONFIDENCE_A - CORRECT_A)
    assert np.abs(running).max() / 10 == pytest.approx(0.08)


def test_ties_count_at_their_end_only():
    # In data order the running sum peaks at 1.0 inside the tie; at its end it is 0.
    p, labels = rows_with([0.5] * 4, [0, 0, 1, 1])
    assert ks_error(p, labels) == 0.0


def test_a_constant_gap_is_the_mean_gap():
    p, labels = rows_with(np.linspace(0.6, 0.9, 9), np.ones(9))
    assert ks_error(p, labels) == pytest.approx(0.25)


def test_from_sums_inside_a_bin_is_invisible_but_bounded():
    # One fine bin: -.7 after the first, .3 - .7 + .8 = ... only the end is seen.
    p, labels = rows_with([0.3, 0.8], [1, 0])
    stats = CalibrationStats.from_probabilities(p, labels, StatsSpec(fine_bins=1))
    value, bound = ks_error_of(stats)
    assert value == pytest.approx(abs(0.3 - 1 + 0.8) / 2)
    assert ks_error(p, labels) == pytest.approx(0.35)
    assert value + bound >= 0.35
    assert bound <= 1.0


def test_ks_error_without_examples_is_nan():
    assert math.isnan(ks_error(np.zeros((0, 2)), np.zeros(0, np.int64)))
    assert math.isnan(ks_error_of(CalibrationStats.zero()).value)
