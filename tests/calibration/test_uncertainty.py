import math
from dataclasses import replace

import numpy as np
import pytest
from known_examples import random_predictions, rows_with
from scipy import stats as scipy_stats

from fl2ora.calibration.metrics.classwise import classwise_ece_of
from fl2ora.calibration.resampling import gap_noise, resample_calibrated, resample_examples
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.uncertainty import (
    GAP_METRICS,
    intervals_over_clients,
    intervals_over_examples,
    reported_metrics,
)

SPEC = StatsSpec(num_bins=10, fine_bins=100)


def draw(seed, n, shift=0.0):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 0.99, n)
    return confidence, rng.random(n) < confidence - shift


def stats_of(confidence, correct, spec=SPEC):
    p, labels = rows_with(confidence, correct, num_classes=20)
    return CalibrationStats.from_probabilities(p, labels, spec)


def test_resampled_examples_look_like_a_bootstrap_of_the_examples():
    c, a = draw(0, 200, shift=0.1)
    stats, rng = stats_of(c, a), np.random.default_rng(1)
    from_sums = [reported_metrics(resample_examples(stats, rng)) for _ in range(400)]
    rows = [rng.integers(0, 200, 200) for _ in range(400)]
    from_rows = [reported_metrics(stats_of(c[r], a[r])) for r in rows]
    for name in from_sums[0]:
        ours, theirs = ([metrics[name] for metrics in draws] for draws in (from_sums, from_rows))
        assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.25 * np.std(theirs)), name
        assert np.std(ours) == pytest.approx(np.std(theirs), rel=0.2), name


def test_resampling_keeps_the_number_of_examples():
    stats = stats_of(*draw(0, 50))
    drawn = resample_examples(stats, np.random.default_rng(0))
    assert drawn.num_examples == drawn.fine_count.sum() == 50
    assert (drawn.correct <= drawn.count).all()


def test_a_calibrated_world_keeps_confidences_and_is_right_as_promised():
    stats, rng = stats_of(*draw(0, 400, shift=0.3)), np.random.default_rng(0)
    drawn = [resample_calibrated(stats, rng) for _ in range(300)]
    assert all((d.confidence == stats.confidence).all() for d in drawn)
    gaps = np.array([(d.confidence - d.correct).sum() for d in drawn]) / 400
    assert gaps.mean() == pytest.approx(0, abs=0.005)
    assert stats.confidence.sum() - stats.correct.sum() > 0.25 * 400


def test_noise_of_no_change_is_no_gap():
    stats = stats_of(*draw(0, 50))
    metrics = reported_metrics(gap_noise(stats, stats))
    assert max(metrics[name] for name in GAP_METRICS & metrics.keys()) < 1e-15


@pytest.mark.parametrize("over", ["examples", "clients"])
@pytest.mark.parametrize("shift", [0.0, 0.15])
def test_intervals_cover_the_truth(over, shift):
    # Bins of equal width, chance = confidence - shift: every gap, and so ECE, is the shift.
    truth = {"ece": shift, "ace": shift, "mce": shift, "over_confidence": shift}
    truth["accuracy"] = (0.3 + 0.99) / 2 - shift
    misses = dict.fromkeys(truth, 0)
    for seed in range(30):
        c, a = draw(seed, 400, shift)
        if over == "examples":
            found = intervals_over_examples(stats_of(c, a), resamples=100, seed=seed)
        else:
            clients = [stats_of(c[i::25], a[i::25]) for i in range(25)]
            found = intervals_over_clients(clients, resamples=100, seed=seed)
        for name, value in truth.items():
            interval = found[name]
            assert interval.over == over
            misses[name] += not interval.low - 1e-9 <= value <= interval.high + 1e-9
    # Nominal 5 %: more than 6 of 30 would happen once in 2,000 times.
    assert max(misses.values()) <= 6, misses


def test_an_interval_holds_its_value_and_shrinks_with_examples():
    for n in (100, 1600):
        found = intervals_over_examples(stats_of(*draw(1, n, 0.1)), resamples=200)
        for name, interval in found.items():
            assert interval.low <= interval.value, name
    small = intervals_over_examples(stats_of(*draw(1, 100, 0.1)), resamples=200)["ece"]
    large = intervals_over_examples(stats_of(*draw(1, 6400, 0.1)), resamples=200)["ece"]
    assert large.high - large.low < (small.high - small.low) / 4


CALIBRATED = {  # confidences; a model right exactly so often
    "accuracy 97 %": lambda rng, n: np.clip(1 - rng.gamma(0.6, 0.05, n), 0.3, 1),
    "accuracy 99.5 %": lambda rng, n: np.clip(1 - rng.gamma(0.3, 0.016, n), 0.3, 1),
    "always 0.995": lambda _, n: np.full(n, 0.995),
}


@pytest.mark.parametrize("n", [50, 300])
@pytest.mark.parametrize("name", CALIBRATED)
def test_intervals_hold_where_errors_are_rare(name, n):
    rng, misses, runs = np.random.default_rng(5), {}, 100
    far = CALIBRATED[name](rng, 200_000)
    truth = {"accuracy": far.mean(), "confidence": far.mean(), "ece": 0.0, "mce": 0.0}
    truth |= {"ace": 0.0, "mce_equal_mass": 0.0, "over_confidence": 0.0, "under_confidence": 0.0}
    # Two classes: p, 1 - p. Mean scores of a calibrated model are its entropy and 2 p (1 - p).
    truth["nll"] = -(far * np.log(far) + (1 - far) * np.log(np.maximum(1 - far, 1e-300))).mean()
    truth["brier"] = (2 * far * (1 - far)).mean()
    for _ in range(runs):
        c = CALIBRATED[name](rng, n)
        labels = (rng.random(n) >= c).astype(int)
        stats = CalibrationStats.from_probabilities(np.stack([c, 1 - c], axis=1), labels)
        for key, interval in intervals_over_examples(stats, resamples=400).items():
            if key in truth:
                missed = not interval.low - 1e-12 <= truth[key] <= interval.high + 1e-12
                misses[key] = misses.get(key, 0) + missed
    assert max(misses.values()) <= 13, misses  # 93 % coverage misses 14 or more once in 100


def test_a_change_in_the_last_bits_of_the_sums_changes_the_last_bits_of_the_ends():
    stats = stats_of(*draw(2, 700, 0.05))
    nudged = replace(
        stats,
        confidence=stats.confidence * (1 + 1e-12),
        fine_confidence=stats.fine_confidence * (1 - 1e-12),
    )
    one, two = (intervals_over_examples(s, resamples=500) for s in (stats, nudged))
    for name in one:
        assert one[name].low == pytest.approx(two[name].low, abs=1e-10), name
        assert one[name].high == pytest.approx(two[name].high, abs=1e-10), name


def test_the_interval_of_one_bin_is_that_of_its_accuracy():
    # 1,000 predictions of confidence .8, 700 right: |.8 - p|, p by the normal approximation.
    stats = stats_of(np.full(1000, 0.8), np.arange(1000) < 700)
    ece = intervals_over_examples(stats, resamples=4000)["ece"]
    reach = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
    assert ece.value == pytest.approx(0.1)
    assert ece.low == pytest.approx(0.1 - reach, abs=0.004)
    assert ece.high == pytest.approx(0.1 + reach, abs=0.002)


@pytest.mark.parametrize(("right", "n"), [(50, 50), (0, 7), (495, 500), (3, 10)])
def test_accuracy_has_the_exact_interval(right, n):
    found = intervals_over_examples(stats_of(np.full(n, 0.9), np.arange(n) < right), resamples=1)
    exact = scipy_stats.binomtest(right, n).proportion_ci(0.95, method="exact")
    assert found["accuracy"].low == pytest.approx(exact.low)
    assert found["accuracy"].high == pytest.approx(exact.high)


def test_clients_that_are_all_alike_are_no_evidence_of_certainty():
    client = stats_of(np.full(10, 0.99), np.ones(10))
    over_clients = intervals_over_clients([client] * 6, resamples=50)
    over_examples = intervals_over_examples(sum([client] * 6), resamples=50)
    for name in ("ece", "accuracy", "nll"):
        assert over_clients[name].low == over_examples[name].low
        assert over_clients[name].high == over_examples[name].high > over_clients[name].low


def test_same_seed_same_interval():
    stats = stats_of(*draw(0, 100))
    once = intervals_over_examples(stats, resamples=20, seed=3)
    assert once == intervals_over_examples(stats, resamples=20, seed=3)
    assert once != intervals_over_examples(stats, resamples=20, seed=4)


def test_own_metrics_and_classwise_over_clients():
    spec = StatsSpec(num_classes=3, classwise=True)
    clients = [
        CalibrationStats.from_probabilities(*random_predictions(s, 40, 3), spec) for s in range(8)
    ]

    def metrics(stats):
        return {"classwise_ece": classwise_ece_of(stats)}

    found = intervals_over_clients(clients, metrics=metrics, gaps={"classwise_ece"}, resamples=50)
    assert found["classwise_ece"].low < found["classwise_ece"].value
    with pytest.raises(ValueError, match="classwise=True"):
        intervals_over_examples(sum(clients), metrics=metrics, resamples=5)


def test_no_examples_are_nan_and_infinite_nll_stays():
    assert math.isnan(intervals_over_examples(CalibrationStats.zero(), resamples=3)["ece"].low)
    p = np.array([[1.0, 0.0], [0.5, 0.5]])
    stats = CalibrationStats.from_probabilities(p, np.array([1, 0]))
    nll = intervals_over_examples(stats, resamples=3)["nll"]
    assert (nll.low, nll.high) == (math.inf, math.inf)


def test_bad_arguments():
    stats = stats_of(*draw(0, 10))
    with pytest.raises(ValueError, match="resamples must be at least 1"):
        intervals_over_examples(stats, resamples=0)
    with pytest.raises(ValueError, match="level in"):
        intervals_over_examples(stats, resamples=2, level=1.0)
    with pytest.raises(ValueError, match="at least one client"):
        intervals_over_clients([])
    with pytest.raises(ValueError, match="different sizes"):
        intervals_over_clients([stats, CalibrationStats.zero()])
