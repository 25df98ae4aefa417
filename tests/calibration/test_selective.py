import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_examples import CONFIDENCE_A, CORRECT_A, random_predictions, rows_with

from fl2ora.calibration.metrics.selective import aurc, aurc_of, e_aurc, e_aurc_of, optimal_aurc
from fl2ora.calibration.stats import CalibrationStats


def by_loop(wrong_in_order):
    errors = 0
    total = 0.0
    for i, wrong in enumerate(wrong_in_order, start=1):
        errors += wrong
        total += errors / i
    return total / len(wrong_in_order)


def test_example_a():
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


def test_nothing_to_measure_is_nan():
    nothing = np.zeros((0, 2)), np.zeros(0, np.int64)
    assert math.isnan(aurc(*nothing))
    assert math.isnan(e_aurc(*nothing))
    assert math.isnan(e_aurc_of(CalibrationStats.zero()).value)
