import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_examples import (
    CONFIDENCE_A,
    CORRECT_A,
    LABELS_B,
    PROBABILITIES_B,
    random_predictions,
    rows_with,
)

from fl2ora.calibration.metrics import proper
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


def test_proper_scores_of_example_b():
    # Rows: .04+.01+.09... = (.3,.2,.1), (.6,.7,.1), (.2,.5,.3), (.1,.3,.4) away from one-hot.
    squares = [0.09 + 0.04 + 0.01, 0.36 + 0.49 + 0.01, 0.04 + 0.25 + 0.09, 0.01 + 0.09 + 0.16]
    assert proper.brier(PROBABILITIES_B, LABELS_B) == pytest.approx(sum(squares) / 4) == 0.41
    of_label = [0.7, 0.3, 0.5, 0.6]
    value = proper.nll(PROBABILITIES_B, LABELS_B)
    assert value == pytest.approx(-sum(map(math.log, of_label)) / 4)
    assert value == pytest.approx(0.691155, abs=1e-6)
    logits = np.log(PROBABILITIES_B) + 7
    assert proper.nll_from_logits(logits, LABELS_B) == pytest.approx(value)


def test_top1_of_example_a():
    p, labels = rows_with(CONFIDENCE_A, CORRECT_A)
    expected = ((CONFIDENCE_A - CORRECT_A) ** 2).mean()
    assert proper.brier_top1(p, labels) == pytest.approx(expected)
    assert expected == pytest.approx(0.217)


def test_five_parts_of_example_a():
    # Bins by hand: (.1 .2)(.35 .4)(.55 .6)(.75)(.9 .95 1), right (0 0)(1 0)(1 0)(1)(1 0 1).
    bins = [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7), slice(7, 10)]
    c, a = [CONFIDENCE_A[b] for b in bins], [CORRECT_A[b] for b in bins]
    weight = [len(x) / 10 for x in c]
    groups = list(zip(weight, c, a, strict=True))
    parts = proper.brier_parts(*rows_with(CONFIDENCE_A, CORRECT_A), num_bins=5)
    assert parts.reliability == pytest.approx(
        sum(w * (x.mean() - y.mean()) ** 2 for w, x, y in groups)
    )
    assert parts.resolution == pytest.approx(sum(w * (y.mean() - 0.5) ** 2 for w, _, y in groups))
    assert parts.uncertainty == pytest.approx(0.25)
    assert parts.within_variance == pytest.approx(sum(w * x.var() for w, x, _ in groups))
    covariance = sum(w * ((x - x.mean()) * (y - y.mean())).mean() for w, x, y in groups)
    assert parts.within_covariance == pytest.approx(2 * covariance)
    assert parts.total == pytest.approx(0.217)
    golden = (0.039083, 0.083333, 0.25, 0.00125, -0.01)
    assert tuple(vars(parts).values()) == pytest.approx(golden, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 50), st.integers(1, 20))
def test_the_parts_always_sum_to_the_score(seed, n, num_bins):
    p, labels = random_predictions(seed, n, 4)
    parts = proper.brier_parts(p, labels, num_bins=num_bins)
    assert parts.total == pytest.approx(proper.brier_top1(p, labels), abs=1e-12)
    assert 0 <= parts.total <= proper.brier(p, labels) <= 2


def test_certain_and_wrong_is_the_worst():
    p, labels = np.array([[1.0, 0.0]]), np.array([1])
    assert proper.brier(p, labels) == 2.0
    assert proper.brier_top1(p, labels) == 1.0
    assert proper.nll(p, labels) == math.inf


def test_proper_scores_without_examples_are_nan():
    nothing = np.zeros((0, 2)), np.zeros(0, np.int64)
    stats = CalibrationStats.zero(StatsSpec())
    for value in (
        proper.brier(*nothing),
        proper.brier_top1(*nothing),
        proper.nll(*nothing),
        proper.nll_from_logits(*nothing),
        proper.brier_parts_of(stats).total,
    ):
        assert math.isnan(value)
