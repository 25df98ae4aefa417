import math

import numpy as np
import pytest
from known_examples import CONFIDENCE_A, CORRECT_A, random_predictions, rows_with

from fl2ora.calibration.metrics.adaptive import adaptive_ece, mce_equal_mass
from fl2ora.calibration.predictions import scores_of
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summaries import summarise, summarise_pooled
from fl2ora.calibration.summation import sums_of_scores

NAMES = [
    "num_examples",
    "accuracy",
    "confidence",
    "ece",
    "mce",
    "mce_count",
    "mce_equal_mass",
    "mce_weighted",
    "ace",
    "nll",
    "brier",
    "over_confidence",
    "under_confidence",
]


def test_golden_values_of_example_a():
    p, labels = rows_with(CONFIDENCE_A, CORRECT_A)
    summary = summarise(CalibrationStats.from_probabilities(p, labels, StatsSpec(num_bins=5)))
    of_label = p[np.arange(10), labels]
    rest = (1 - CONFIDENCE_A) / 15
    wrong = CORRECT_A == 0
    # Sum of squares of a row: c^2 + 15 rest^2; minus twice the label's probability, plus 1.
    brier = CONFIDENCE_A**2 + 15 * rest**2 - 2 * np.where(wrong, rest, CONFIDENCE_A) + 1
    assert summary == pytest.approx(
        {
            "num_examples": 10,
            "accuracy": 0.5,
            "confidence": 0.58,
            "ece": 0.18,
            "mce": 0.85 / 3,
            "mce_count": 3,
            "mce_equal_mass": 0.475,
            "mce_weighted": 0.085,
            "ace": 0.2,
            "nll": -np.log(of_label).mean(),
            "brier": brier.mean(),
            "over_confidence": 0.13,
            "under_confidence": 0.05,
        }
    )


def test_values_are_plain_floats_under_the_agreed_names():
    p, labels = rows_with([0.3, 0.9], [0, 1])
    summary = summarise(CalibrationStats.from_probabilities(p, labels))
    assert list(summary) == NAMES
    assert {type(value) for value in summary.values()} == {float}


def test_no_examples_are_nan_not_an_error():
    summary = summarise(CalibrationStats.zero())
    assert list(summary) == NAMES
    assert summary.pop("num_examples") == 0.0
    assert all(math.isnan(value) for value in summary.values())
    assert {type(value) for value in summary.values()} == {float}


def test_without_a_fine_histogram_only_equal_mass_metrics_are_missing():
    p, labels = rows_with([0.3, 0.9], [0, 1])
    summary = summarise(CalibrationStats.from_probabilities(p, labels, StatsSpec(fine_bins=0)))
    assert math.isnan(summary.pop("ace"))
    assert math.isnan(summary.pop("mce_equal_mass"))
    assert all(math.isfinite(value) for value in summary.values())


def test_pooled_summary_has_the_exact_equal_mass_error():
    p, labels = random_predictions(0, 500, 5)
    stats = CalibrationStats.from_probabilities(p, labels, StatsSpec(num_bins=10, fine_bins=3))
    pooled, summed = summarise_pooled(p, labels, num_bins=10), summarise(stats)
    assert pooled.pop("ace") == adaptive_ece(p, labels, num_bins=10) != summed.pop("ace")
    exact = mce_equal_mass(p, labels, num_bins=10)
    assert pooled.pop("mce_equal_mass") == exact != summed.pop("mce_equal_mass")
    assert pooled == pytest.approx(summed, rel=1e-12)


def test_class_wise_sums_need_whole_rows():
    spec = StatsSpec(num_classes=3, classwise=True)
    nothing = scores_of([])
    with pytest.raises(ValueError, match="need whole rows"):
        sums_of_scores(nothing, spec)
