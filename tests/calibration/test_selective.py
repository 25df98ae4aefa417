import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_examples import CONFIDENCE_A, CORRECT_A, random_predictions, rows_with
from sklearn.metrics import roc_auc_score

from fl2ora.calibration.metrics.selective import (
    aurc,
    aurc_of,
    auroc,
    auroc_of,
    coverage_at_risk,
    coverage_at_risk_of,
    e_aurc,
    e_aurc_of,
    optimal_aurc,
)
from fl2ora.calibration.stats import CalibrationStats


def by_loop(wrong_in_order):
    errors = 0
    total = 0.0
    for i, wrong in enumerate(wrong_in_order, start=1):
        errors += wrong
        total += errors / i
    return total / len(wrong_in_order)


def test_selective_metrics_of_example_a():
    p, labels = rows_with(CONFIDENCE_A, CORRECT_A)
    expected = by_loop(1 - CORRECT_A[::-1])
    best = by_loop([0] * 5 + [1] * 5)
    closed = 0.5 + 0.5 * math.log(0.5)
    assert aurc(p, labels) == pytest.approx(expected)
    assert optimal_aurc(10, 5) == pytest.approx(best)
    assert optimal_aurc(10, 5, closed_form=True) == pytest.approx(closed)
    assert e_aurc(p, labels) == pytest.approx(expected - best)
    assert e_aurc(p, labels, closed_form=True) == pytest.approx(expected - closed)
    golden = (0.356468, 0.177183, 0.153426, 0.179286, 0.203042)
    values = (expected, best, closed, expected - best, expected - closed)
    assert values == pytest.approx(golden, abs=1e-6)


def test_ties_are_averaged_over_all_orders():
    confidence, wrong = [0.9, 0.5, 0.5, 0.5, 0.2], [0, 1, 0, 0, 1]
    orders = itertools.permutations([1, 0, 0])
    expected = np.mean([by_loop([0, *order, 1]) for order in orders])
    p, labels = rows_with(confidence, 1 - np.array(wrong))
    assert aurc(p, labels) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_against_the_loop(seed, n):
    p, labels = random_predictions(seed, n, 3)
    order = np.argsort(-p.max(1), kind="stable")
    wrong = (p.argmax(1) != labels)[order]
    assert aurc(p, labels) == pytest.approx(by_loop(wrong), abs=1e-10)
    assert e_aurc(p, labels) >= -1e-10


@pytest.mark.parametrize(("correct", "expected"), [([1, 1, 1], 0.0), ([0, 0, 0], 1.0)])
def test_all_right_or_all_wrong(correct, expected):
    p, labels = rows_with([0.5, 0.6, 0.7], correct)
    assert aurc(p, labels) == pytest.approx(expected, abs=1e-12)
    assert e_aurc(p, labels) == pytest.approx(0.0, abs=1e-12)
    assert e_aurc(p, labels, closed_form=True) == pytest.approx(0.0, abs=1e-12)
    stats = CalibrationStats.from_probabilities(p, labels)
    assert aurc_of(stats) == pytest.approx((expected, 0.0), abs=1e-12)


def test_selective_metrics_without_examples_are_nan():
    nothing = np.zeros((0, 2)), np.zeros(0, np.int64)
    assert math.isnan(aurc(*nothing))
    assert math.isnan(e_aurc(*nothing))
    assert math.isnan(auroc(*nothing))
    assert math.isnan(coverage_at_risk(*nothing))
    for metric in (e_aurc_of, auroc_of, coverage_at_risk_of):
        assert math.isnan(metric(CalibrationStats.zero()).value)


def test_auroc_by_hand():
    # Right at .9 .7 .5, wrong at .7 .3: of six pairs four in order and one tie.
    p, labels = rows_with([0.9, 0.7, 0.5, 0.7, 0.3], [1, 1, 1, 0, 0])
    expected = (2 + 1.5 + 1) / 6
    assert auroc(p, labels) == pytest.approx(expected)
    assert auroc_of(CalibrationStats.from_probabilities(p, labels)).value == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.booleans())
def test_auroc_against_scikit_learn(seed, n, ties):
    rng = np.random.default_rng(seed)
    confidence = rng.integers(2, 10, n) / 10 if ties else rng.uniform(0.2, 1, n)
    correct = rng.integers(0, 2, n)
    correct[:2] = 0, 1
    expected = roc_auc_score(correct, confidence)
    assert auroc(*rows_with(confidence, correct)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("correct", [[1, 1, 1], [0, 0, 0]])
def test_auroc_of_one_kind_alone_has_no_pairs(correct):
    p, labels = rows_with([0.5, 0.6, 0.7], correct)
    assert math.isnan(auroc(p, labels))
    assert math.isnan(auroc_of(CalibrationStats.from_probabilities(p, labels)).value)


def coverage_by_loop(confidence, correct, risk):
    """Try every threshold, with whole numbers: errors * 100 <= risk in percent * kept."""
    best = 0
    for threshold in confidence:
        kept = confidence >= threshold
        if 100 * int((1 - correct)[kept].sum()) <= round(100 * risk) * int(kept.sum()):
            best = max(best, int(kept.sum()))
    return best / len(confidence)


def test_coverage_of_exactly_the_risk():
    """One error in 20 is 5 %; 29 in 100 are 29 %, though 0.29 * 100 is below 29 in floats."""
    assert 0.29 * 100 < 29
    for n, wrong, risk in ((20, 1, 0.05), (140, 7, 0.05), (100, 29, 0.29)):
        confidence = np.linspace(0.99, 0.2, n)
        p, labels = rows_with(confidence, [1] * (n - wrong) + [0] * wrong)
        assert coverage_at_risk(p, labels, risk=risk) == 1.0
        stats = CalibrationStats.from_probabilities(p, labels)
        assert coverage_at_risk_of(stats, risk=risk).value == 1.0
        p, labels = rows_with(confidence, [1] * (n - wrong - 1) + [0] * (wrong + 1))
        assert coverage_at_risk(p, labels, risk=risk) < (n - 1) / n


def test_equal_confidences_are_kept_together():
    # The first is right, but the threshold that keeps it keeps the wrong one as well.
    p, labels = rows_with([0.9, 0.9, 0.5], [1, 0, 0])
    assert coverage_at_risk(p, labels, risk=0.4) == 0.0
    assert coverage_at_risk(p, labels, risk=0.5) == pytest.approx(2 / 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 80), st.sampled_from([0.0, 0.05, 0.2]))
def test_coverage_against_the_loop(seed, n, risk):
    rng = np.random.default_rng(seed)
    confidence = rng.integers(20, 100, n) / 100
    correct = (rng.random(n) < confidence).astype(int)
    p, labels = rows_with(confidence, correct)
    expected = coverage_by_loop(confidence, correct, risk)
    assert coverage_at_risk(p, labels, risk=risk) == pytest.approx(expected, abs=1e-12)
    stats = CalibrationStats.from_probabilities(p, labels)  # every hundredth has a fine bin
    assert coverage_at_risk_of(stats, risk=risk).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("correct", "expected"), [([1, 1, 1], 1.0), ([0, 0, 0], 0.0)])
def test_coverage_without_errors_and_of_errors_alone(correct, expected):
    p, labels = rows_with([0.5, 0.6, 0.7], correct)
    assert coverage_at_risk(p, labels) == expected
    stats = CalibrationStats.from_probabilities(p, labels)
    assert coverage_at_risk_of(stats) == (expected, 0.0)


def test_a_risk_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"risk must lie in \[0, 1\], found 5"):
        coverage_at_risk(*rows_with([0.5], [1]), risk=5)
