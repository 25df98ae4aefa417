import numpy as np
import pytest
from known_examples import CONFIDENCE_A, CORRECT_A, rows_with
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binom

from fl2ora.calibration.reliability import Band, accuracy_band, reliability_bins, shrunk_rate
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


def stats_of(confidence, correct, num_bins=5):
    return CalibrationStats.from_probabilities(
        *rows_with(confidence, correct), StatsSpec(num_bins=num_bins)
    )


def test_bins_of_the_known_example():
    bins = reliability_bins(stats_of(CONFIDENCE_A, CORRECT_A))
    assert_allclose(bins.edges, [0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert_array_equal(bins.count, [2, 2, 2, 1, 3])
    assert_allclose(bins.confidence, np.array([0.3, 0.75, 1.15, 0.75, 2.85]) / [2, 2, 2, 1, 3])
    assert_allclose(bins.accuracy, [0, 1 / 2, 1 / 2, 1, 2 / 3])
    assert_allclose(np.abs(bins.gap), [0.15, 0.125, 0.075, 0.25, 0.283333], atol=1e-6)


def test_empty_bins_are_nan():
    bins = reliability_bins(stats_of([0.9, 0.95], [1, 0]))
    assert_array_equal(bins.count, [0, 0, 0, 0, 2])
    assert np.isnan(bins.confidence[:4]).all()
    assert np.isnan(bins.accuracy[:4]).all()
    assert_allclose([bins.confidence[4], bins.accuracy[4]], [0.925, 0.5])


@pytest.mark.parametrize("num_bins", [1, 7])
def test_no_examples(num_bins):
    stats = CalibrationStats.zero(StatsSpec(num_bins=num_bins))
    bins = reliability_bins(stats)
    band = accuracy_band(stats, np.random.default_rng(0))
    assert bins.edges.shape == (num_bins + 1,)
    for values in (bins.confidence, bins.accuracy, band.low, band.high):
        assert values.shape == (num_bins,)
        assert np.isnan(values).all()


def test_added_clients_give_the_pooled_diagram():
    parts = [stats_of(CONFIDENCE_A[:4], CORRECT_A[:4]), stats_of(CONFIDENCE_A[4:], CORRECT_A[4:])]
    added, pooled = (
        reliability_bins(sum(parts)),
        reliability_bins(stats_of(CONFIDENCE_A, CORRECT_A)),
    )
    assert_array_equal(added.count, pooled.count)
    assert_allclose(added.accuracy, pooled.accuracy)
    assert_allclose(added.confidence, pooled.confidence)


def test_bins_do_not_share_memory_with_the_stats():
    stats = stats_of(CONFIDENCE_A, CORRECT_A)
    reliability_bins(stats).count[:] = 99
    assert stats.num_examples == 10


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (1, 1), (30, 40), (150, 1000)])
def test_band_is_that_of_the_binomial(right, n):
    stats = stats_of(np.full(n, 0.7), np.arange(n) < right, num_bins=1)
    band = accuracy_band(stats, np.random.default_rng(1), draws=20_000, level=0.9)
    rate = (right + 0.5) / (n + 1)
    expected = binom.ppf([0.05, 0.95], n, rate) / n
    assert_allclose([band.low[0], band.high[0]], expected, atol=1.01 / n if n < 500 else 2.01 / n)


def test_band_covers_the_true_accuracy():
    rng = np.random.default_rng(2)
    truth = np.array([0.15, 0.35, 0.5, 0.7, 0.9])
    hits = []
    for _ in range(200):
        correct = rng.binomial(40, truth)
        sums = CalibrationStats.zero(StatsSpec(num_bins=5)).to_arrays()
        sums |= {"count": np.full(5, 40.0), "confidence": 40 * truth, "correct": correct}
        stats = CalibrationStats.from_arrays(sums, StatsSpec(num_bins=5))
        band = accuracy_band(stats, rng, draws=400)
        hits.append((band.low <= truth) & (truth <= band.high))
    assert 0.92 < np.mean(hits) < 0.99


def test_a_bin_of_few_right_predictions_is_uncertain():
    band = accuracy_band(stats_of([0.7] * 3, [1, 1, 1], 1), np.random.default_rng(0))
    assert band.low[0] < 0.5
    assert band.high[0] == 1


def test_equal_generators_give_equal_bands():
    stats = stats_of(np.linspace(0.2, 1, 20_000), np.arange(20_000) % 3 > 0)
    one, two = (accuracy_band(stats, np.random.default_rng(3)) for _ in range(2))
    other = accuracy_band(stats, np.random.default_rng(4))
    assert_array_equal(one.low, two.low)
    assert_array_equal(one.high, two.high)
    assert not np.array_equal(one.low, other.low)
    assert one.level == 0.95


def test_shrunk_rate_lies_inside():
    assert_allclose(
        shrunk_rate(np.array([0.0, 3.0, 0.0]), np.array([3.0, 3.0, 0.0])), [1 / 8, 7 / 8, 0.5]
    )


def test_wrong_arguments():
    stats = stats_of([0.7], [1])
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\), found 1"):
        accuracy_band(stats, np.random.default_rng(0), level=1.0)
    with pytest.raises(ValueError, match="draws must be at least 1, found 0"):
        accuracy_band(stats, np.random.default_rng(0), draws=0)
    band = Band.of_draws(np.arange(101.0)[:, None], 0.9)
    assert_allclose([band.low[0], band.high[0]], [5, 95])
