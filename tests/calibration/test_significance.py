import math

import numpy as np
import pytest
from known_examples import CONFIDENCE_A, CORRECT_A, random_predictions, rows_with
from scipy import stats as scipy_stats

from fl2ora.calibration.significance import (
    chi2_tail,
    consistency_test,
    hosmer_lemeshow_test,
    spiegelhalter_test,
)
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


def stats_of(confidence, correct, num_bins=5):
    p, labels = rows_with(confidence, correct, num_classes=100)
    return CalibrationStats.from_probabilities(p, labels, StatsSpec(num_bins=num_bins))


def draw(seed, n, shift=0.0):
    """Confidences in [.3, .99] and outcomes right with chance confidence - shift."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 0.99, n)
    return confidence, rng.random(n) < confidence - shift


def test_spiegelhalter_by_the_formula():
    c, a = CONFIDENCE_A, CORRECT_A
    z = ((a - c) * (1 - 2 * c)).sum() / math.sqrt(((1 - 2 * c) ** 2 * c * (1 - c)).sum())
    test = spiegelhalter_test(stats_of(c, a))
    assert test.statistic == pytest.approx(z)
    assert test.p_value == pytest.approx(2 * scipy_stats.norm.sf(abs(z)))


def test_spiegelhalter_adds_over_clients():
    c, a = draw(0, 300)
    whole = spiegelhalter_test(stats_of(c, a))
    parts = spiegelhalter_test(stats_of(c[:100], a[:100]) + stats_of(c[100:], a[100:]))
    assert parts.statistic == pytest.approx(whole.statistic)


def test_hosmer_lemeshow_by_the_formula():
    n, c, a = (
        np.array([2, 2, 2, 1, 3]),
        np.array([0.3, 0.75, 1.15, 0.75, 2.85]),
        [0, 1, 1, 1, 2],
    )
    mean = c / n
    chi2 = ((np.array(a) - c) ** 2 / (n * mean * (1 - mean))).sum()
    test = hosmer_lemeshow_test(stats_of(CONFIDENCE_A, CORRECT_A), min_expected=0)
    assert test.statistic == pytest.approx(chi2)
    assert test.degrees_of_freedom == test.expected == 5
    assert test.p_value == pytest.approx(scipy_stats.chi2.sf(chi2, 5))
    textbook = hosmer_lemeshow_test(
        stats_of(CONFIDENCE_A, CORRECT_A), min_expected=0, fitted_parameters=2
    )
    assert textbook.p_value == pytest.approx(scipy_stats.chi2.sf(chi2, 3))


def test_thin_bins_are_merged():
    # Expected wrong: 10 * .5 in the first bin, 10 * .1 in the last: too few to stand alone.
    stats = stats_of([0.5] * 10 + [0.9] * 10, [1] * 5 + [0] * 5 + [1] * 8 + [0] * 2)
    test = hosmer_lemeshow_test(stats)
    assert test.degrees_of_freedom == 1
    mean = 14 / 20
    assert test.statistic == pytest.approx((13 - 14) ** 2 / (20 * mean * (1 - mean)))


@pytest.mark.parametrize(("statistic", "freedom"), [(0.0, 1), (3.84, 1), (20.0, 15), (900.0, 10)])
def test_chi2_tail_against_scipy(statistic, freedom):
    expected = scipy_stats.chi2.sf(statistic, freedom)
    assert chi2_tail(statistic, freedom) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("test", [spiegelhalter_test, hosmer_lemeshow_test, consistency_test])
def test_miscalibration_is_found(test):
    assert test(stats_of(*draw(0, 2000, shift=0.1))).p_value < 0.01


@pytest.mark.parametrize(
    "test", [spiegelhalter_test, hosmer_lemeshow_test, lambda s: consistency_test(s, resamples=99)]
)
def test_false_alarms_are_as_rare_as_promised(test):
    alarms = sum(test(stats_of(*draw(seed, 400))).p_value <= 0.1 for seed in range(200))
    assert 8 <= alarms <= 34  # binomial(200, .1): mean 20, four standard deviations 17


def test_consistency_reports_the_floor():
    c, a = draw(3, 500)
    test = consistency_test(stats_of(c, a, 15))
    # Half-normal mean of every bin: sum of sqrt(2 v / pi) / N, v the sum of c (1 - c) in the bin.
    variance = np.zeros(15)
    np.add.at(variance, np.ceil(c * 15).astype(int) - 1, c * (1 - c))
    assert test.expected == pytest.approx(np.sqrt(2 * variance / math.pi).sum() / 500, rel=0.05)


def test_certainty_leaves_nothing_to_chance():
    sure_and_right = stats_of(np.ones(5), np.ones(5))
    assert spiegelhalter_test(sure_and_right).p_value == 1.0
    assert hosmer_lemeshow_test(sure_and_right, min_expected=0).p_value == 1.0
    sure_and_wrong = stats_of(np.ones(5), [1, 1, 1, 1, 0])
    assert spiegelhalter_test(sure_and_wrong).statistic == math.inf
    assert spiegelhalter_test(sure_and_wrong).p_value == 0.0
    assert hosmer_lemeshow_test(sure_and_wrong, min_expected=0).p_value == 0.0


def test_no_examples_are_nan():
    for test in (spiegelhalter_test, hosmer_lemeshow_test, consistency_test):
        assert math.isnan(test(CalibrationStats.zero()).p_value)


def test_too_few_groups_for_the_fitted_parameters():
    stats = stats_of([0.5] * 20, [1] * 10 + [0] * 10)
    assert math.isnan(hosmer_lemeshow_test(stats, fitted_parameters=2).p_value)


def test_classwise_statistics_are_welcome():
    p, labels = random_predictions(0, 50, 3)
    spec = StatsSpec(num_classes=3, classwise=True)
    stats = CalibrationStats.from_probabilities(p, labels, spec)
    assert 0 < consistency_test(stats, resamples=9).p_value <= 1
