import math

import numpy as np
import pytest
from known_examples import CONFIDENCE_A, CORRECT_A, rows_with
from numpy.testing import assert_allclose, assert_array_equal

from fl2ora.calibration.metrics.smooth import smooth_ece_of
from fl2ora.calibration.smooth_reliability import smooth_band, smooth_curve
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


def fine_stats(centre, count, correct, fine_bins=1000):
    """Return statistics with the given fine histogram, one cell for each centre (F,)."""
    spec = StatsSpec(fine_bins=fine_bins)
    sums = CalibrationStats.zero(spec).to_arrays()
    cell = np.ceil(np.asarray(centre) * fine_bins).astype(int) - 1
    sums["fine_count"][cell] = count
    sums["fine_confidence"][cell] = np.asarray(centre) * count
    sums["fine_correct"][cell] = correct
    sums["count"][0] = np.sum(count)
    return CalibrationStats.from_arrays(sums, spec)


def drawn_stats(seed, n, low=0.1):
    """Return n calibrated examples: right with the probability that they state."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(low, 1, n)
    return CalibrationStats.from_probabilities(*rows_with(confidence, rng.random(n) < confidence))


def kernel_by_images(at, centre, width):
    total = 0.0
    for shift in range(-30, 31):
        for image in (centre + 2 * shift, -centre + 2 * shift):
            total += math.exp(-(((at - image) / width) ** 2) / 2)
    return total


@pytest.mark.parametrize("width", [0.1, 0.2, 0.9])
def test_curve_by_hand(width):
    stats = CalibrationStats.from_probabilities(*rows_with(CONFIDENCE_A, CORRECT_A))
    curve = smooth_curve(stats, points=11, bandwidth=width)
    for at, found, density in zip(curve.confidence, curve.accuracy, curve.density, strict=True):
        weights = np.array([kernel_by_images(at, c, curve.bandwidth) for c in CONFIDENCE_A])
        expected = at + weights @ (CORRECT_A - CONFIDENCE_A) / weights.sum()
        if round(at, 6) >= 0.1 and weights.sum() >= 1:
            assert_allclose(found, min(1, max(0, expected)), atol=1e-7)
        else:
            assert np.isnan(found)
        area = 10 * curve.bandwidth * math.sqrt(2 * math.pi)
        assert_allclose(density, weights.sum() / area, rtol=1e-6)


def test_calibrated_sums_lie_on_the_diagonal_up_to_the_ends():
    centre = np.linspace(0.0005, 0.9995, 500)
    curve = smooth_curve(fine_stats(centre, 8.0, 8 * centre), bandwidth=0.07)
    assert_allclose(curve.accuracy, curve.confidence, atol=1e-12)
    assert_allclose(np.trapezoid(curve.density, curve.confidence), 1, atol=1e-3)


def test_a_constant_gap_is_kept():
    centre = np.linspace(0.2005, 0.9995, 400)
    curve = smooth_curve(fine_stats(centre, 8.0, 8 * (centre - 0.15)), bandwidth=0.05)
    shown = curve.confidence > 0.2
    assert_allclose(curve.accuracy[shown], curve.confidence[shown] - 0.15, atol=1e-12)
    assert np.isnan(curve.accuracy[curve.confidence < 0.19]).all()


def test_calibrated_draws_are_near_the_diagonal_and_inside_the_band():
    stats = drawn_stats(0, 20_000)
    curve = smooth_curve(stats, bandwidth=0.03)
    band = smooth_band(stats, curve, np.random.default_rng(0), draws=200)
    shown = ~np.isnan(curve.accuracy)
    assert shown.mean() > 0.85
    assert_allclose(curve.accuracy[shown], curve.confidence[shown], atol=0.04)
    at = curve.confidence[shown]
    inside = (band.low[shown] <= at) & (at <= band.high[shown])
    assert inside.mean() > 0.8  # 95 % on average, in few independent stretches
    assert (band.low[shown] <= curve.accuracy[shown]).all()
    assert (curve.accuracy[shown] <= band.high[shown]).all()


def test_band_has_the_width_of_the_binomial():
    """A kernel far narrower than the distance of two cells leaves each cell alone."""
    centre, n = np.array([0.2, 0.5, 0.8]), 400
    stats = fine_stats(centre, n, np.array([100, 200, 300]))
    curve = smooth_curve(stats, points=201, bandwidth=0.01)
    band = smooth_band(stats, curve, np.random.default_rng(0), draws=4000)
    at = [40, 100, 160]
    assert_allclose(curve.accuracy[at], [0.25, 0.5, 0.75], atol=1e-9)
    expected = 2 * 1.96 * np.sqrt(np.array([0.25, 0.5, 0.75]) * [0.75, 0.5, 0.25] / n)
    assert_allclose((band.high - band.low)[at], expected, rtol=0.08)


def test_weighted_distance_to_the_diagonal_is_the_smooth_ece():
    rng = np.random.default_rng(1)
    centre = (np.arange(1000) + 0.5) / 1000
    stats = fine_stats(centre, 20.0, rng.binomial(20, 0.3 + 0.4 * centre))
    curve = smooth_curve(stats, points=1001)
    assert curve.bandwidth == pytest.approx(smooth_ece_of(stats).value)
    distance = np.abs(curve.accuracy - curve.confidence) * curve.density
    assert np.trapezoid(distance, curve.confidence) == pytest.approx(curve.bandwidth, abs=1e-4)


def test_added_clients_give_the_pooled_curve():
    one, two = drawn_stats(2, 300), drawn_stats(3, 500)
    rows = [rows_with([0.35, 0.8], [1, 0]), rows_with([0.6], [1])]
    parts = [CalibrationStats.from_probabilities(*row) for row in rows]
    both = np.concatenate([rows[0][0], rows[1][0]]), np.concatenate([rows[0][1], rows[1][1]])
    pooled = smooth_curve(CalibrationStats.from_probabilities(*both), bandwidth=0.2)
    assert_allclose(smooth_curve(sum(parts), bandwidth=0.2).accuracy, pooled.accuracy)
    assert_allclose(smooth_curve(one + two).accuracy, smooth_curve(two + one).accuracy)


@pytest.mark.parametrize("fine_bins", [0, 100])
def test_nothing_to_smooth(fine_bins):
    stats = CalibrationStats.zero(StatsSpec(fine_bins=fine_bins))
    curve = smooth_curve(stats, points=5)
    band = smooth_band(stats, curve, np.random.default_rng(0))
    assert np.isnan(curve.bandwidth)
    assert np.isnan(np.stack([curve.accuracy, band.low, band.high])).all()
    assert_array_equal(curve.density, 0)


def test_one_example_is_one_place():
    stats = CalibrationStats.from_probabilities(*rows_with([1.0], [1]))
    curve = smooth_curve(stats)
    shown = ~np.isnan(curve.accuracy)
    assert shown[-1]
    assert shown.sum() <= 2
    band = smooth_band(stats, curve, np.random.default_rng(0))
    assert band.low[-1] == 0
    assert band.high[-1] == 1


def test_equal_generators_give_equal_bands():
    stats = drawn_stats(4, 400)
    curve = smooth_curve(stats)
    one, two = (smooth_band(stats, curve, np.random.default_rng(5), draws=50) for _ in range(2))
    other = smooth_band(stats, curve, np.random.default_rng(6), draws=50)
    assert_array_equal(one.low, two.low)
    assert not np.array_equal(one.low, other.low, equal_nan=True)


def test_wrong_arguments():
    stats = drawn_stats(7, 10)
    with pytest.raises(ValueError, match="points must be at least 2, found 1"):
        smooth_curve(stats, points=1)
    with pytest.raises(ValueError, match="bandwidth must be positive, found 0"):
        smooth_curve(stats, bandwidth=0.0)
    with pytest.raises(ValueError, match="level"):
        smooth_band(stats, smooth_curve(stats), np.random.default_rng(0), level=2.0)
