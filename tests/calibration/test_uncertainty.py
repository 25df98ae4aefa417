import math

import numpy as np
import pytest
from known_examples import random_predictions, rows_with

from fl2ora.calibration.metrics.binned import ece_of
from fl2ora.calibration.metrics.classwise import classwise_ece_of
from fl2ora.calibration.resampling import gap_noise, resample_calibrated, resample_examples
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.uncertainty import (
    GAP_FIGURES,
    difference_over_clients,
    difference_over_examples,
    intervals_over_clients,
    intervals_over_examples,
    reported_figures,
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
    from_sums = [reported_figures(resample_examples(stats, rng)) for _ in range(400)]
    rows = [rng.integers(0, 200, 200) for _ in range(400)]
    from_rows = [reported_figures(stats_of(c[r], a[r])) for r in rows]
    for name in from_sums[0]:
        ours, theirs = ([figures[name] for figures in draws] for draws in (from_sums, from_rows))
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
    figures = reported_figures(gap_noise(stats, stats))
    assert max(figures[name] for name in GAP_FIGURES) < 1e-15


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


def test_same_seed_same_interval():
    stats = stats_of(*draw(0, 100))
    once = intervals_over_examples(stats, resamples=20, seed=3)
    assert once == intervals_over_examples(stats, resamples=20, seed=3)
    assert once != intervals_over_examples(stats, resamples=20, seed=4)


def test_own_figures_and_classwise_over_clients():
    spec = StatsSpec(num_classes=3, classwise=True)
    clients = [
        CalibrationStats.from_probabilities(*random_predictions(s, 40, 3), spec) for s in range(8)
    ]

    def figures(stats):
        return {"classwise_ece": classwise_ece_of(stats)}

    found = intervals_over_clients(clients, figures=figures, gaps={"classwise_ece"}, resamples=50)
    assert found["classwise_ece"].low < found["classwise_ece"].value
    with pytest.raises(ValueError, match="classwise=True"):
        intervals_over_examples(sum(clients), figures=figures, resamples=5)


def test_a_better_model_is_found_better_over_examples_and_over_clients():
    good = [stats_of(*draw(s, 200)) for s in range(20)]
    bad = [stats_of(*draw(s, 200, shift=0.15)) for s in range(20)]
    apart = difference_over_examples(sum(good), sum(bad), resamples=100)["ece"]
    paired = difference_over_clients(good, bad, resamples=100)["ece"]
    assert apart.value == paired.value == ece_of(sum(good)) - ece_of(sum(bad))
    assert apart.high < 0
    assert paired.high < 0
    assert (apart.over, paired.over) == ("examples", "clients")


def test_a_model_does_not_differ_from_itself():
    clients = [stats_of(*draw(s, 50)) for s in range(5)]
    for interval in difference_over_clients(clients, clients, resamples=30).values():
        assert interval.low == interval.value == interval.high == 0.0


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
    with pytest.raises(ValueError, match="must be the same, found 1 and 2"):
        difference_over_clients([stats], [stats, stats])
    with pytest.raises(ValueError, match="different sizes"):
        intervals_over_clients([stats, CalibrationStats.zero()])
