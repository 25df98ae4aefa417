import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_examples import CONFIDENCE_A, CORRECT_A, rows_with

from fl2ora.calibration.metrics.smooth import smooth_ece, smooth_ece_of
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


def by_the_definition(confidence, correct, points=8001, images=3):
    """Independent script: sum reflected Gaussians, integrate by the trapezoid rule, bisect."""
    t = np.linspace(0, 1, points)

    def smoothed(width):
        density = np.zeros(points)
        for c, a in zip(confidence, correct, strict=True):
            for k in range(-images, images + 1):
                for centre in (c + 2 * k, -c + 2 * k):
                    density += (a - c) * np.exp(-0.5 * ((t - centre) / width) ** 2)
        density /= width * math.sqrt(2 * math.pi) * len(confidence)
        return np.trapezoid(np.abs(density), t)

    low, high = 1e-3, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if smoothed(middle) > middle else (low, middle)
    return high


def test_smooth_ece_of_example_a():
    value = smooth_ece(*rows_with(CONFIDENCE_A, CORRECT_A))
    assert value == pytest.approx(by_the_definition(CONFIDENCE_A, CORRECT_A), abs=1e-6)
    assert value == pytest.approx(0.110179, abs=1e-6)


def test_example_a_with_99_hundredths():
    confidence = np.where(CONFIDENCE_A == 1, 0.99, CONFIDENCE_A)
    value = smooth_ece(*rows_with(confidence, CORRECT_A))
    assert value == pytest.approx(0.109467, abs=1e-6)


def test_example_a_from_a_histogram_of_200_bins():
    p, labels = rows_with(CONFIDENCE_A, CORRECT_A)
    stats = CalibrationStats.from_probabilities(p, labels, StatsSpec(fine_bins=200))
    value, bound = smooth_ece_of(stats)
    # Every example of Ex-A has its own fine bin, represented by its mean: nothing is lost.
    assert value == pytest.approx(0.110179, abs=1e-6)
    # mean |a - c| = .458; sqrt(2 / pi) / 200 * .458 / value
    size = np.abs(CORRECT_A - CONFIDENCE_A).mean()
    assert bound == pytest.approx(math.sqrt(2 / math.pi) / 200 * size / value)


def test_single_point_has_a_closed_form():
    # One example: K is a density of mass 1, so smECE_s = |a - c| at every width.
    assert smooth_ece(*rows_with([0.7], [1])) == pytest.approx(0.3, abs=1e-9)


def test_perfect_certainty_is_zero():
    assert smooth_ece(*rows_with(np.ones(4), np.ones(4))) == 0.0


def test_smooth_ece_without_examples_is_nan():
    assert math.isnan(smooth_ece(np.zeros((0, 2)), np.zeros(0, np.int64)))
    assert math.isnan(smooth_ece_of(CalibrationStats.zero()).value)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_random_examples_against_the_definition(seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.uniform(0.1, 1, 12), rng.integers(0, 2, 12)
    value = smooth_ece(*rows_with(confidence, correct))
    assert value == pytest.approx(by_the_definition(confidence, correct, 2001), abs=2e-5)
