import math

import numpy as np
import pytest
from known_examples import LABELS_B, PROBABILITIES_B, random_predictions

from fl2ora.calibration.metrics.binned import ece
from fl2ora.calibration.metrics.classwise import (
    classwise_ace,
    classwise_ace_by_class,
    classwise_ace_of,
    classwise_ece,
    classwise_ece_by_class,
    classwise_ece_of,
    top_label_ece,
    top_label_ece_by_class,
)
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


def test_classwise_ece_of_example_b():
    # By hand, M = 5: per class the sum over bins of |sum p - number of the class| / 4.
    # .2 closes the first bin and .6 the third; .7 lies in the fourth.
    per_class = [
        (abs(0.3 - 0) + abs(0.6 - 0) + abs(0.7 - 1)) / 4,
        (abs(0.2 - 0) + abs(0.6 - 1) + abs(0.5 - 1)) / 4,
        (abs(0.2 - 0) + abs(0.3 - 0) + abs(0.6 - 1)) / 4,
    ]
    assert per_class == pytest.approx([0.3, 0.275, 0.225])
    value = classwise_ece(PROBABILITIES_B, LABELS_B, num_bins=5)
    assert value == pytest.approx(sum(per_class) / 3)
    assert value == pytest.approx(0.266667, abs=1e-6)


def test_the_vector_behind_the_mean():
    found = classwise_ece_by_class(PROBABILITIES_B, LABELS_B, num_bins=5)
    assert found == pytest.approx([0.3, 0.275, 0.225])
    # Among the two predicted as 0: gaps .7 - 1 and .6 - 0 in bins of their own.
    found = top_label_ece_by_class(PROBABILITIES_B, LABELS_B, num_bins=5)
    assert found == pytest.approx([(0.3 + 0.6) / 2, 0.5, 0.4])
    assert found @ [2 / 4, 1 / 4, 1 / 4] == pytest.approx(0.45)


def test_a_class_never_predicted_has_no_top_label_error():
    p = np.array([[0.5, 0.2, 0.3]] * 2)
    found = top_label_ece_by_class(p, np.array([0, 1]), num_bins=5)
    assert found == pytest.approx([0.0, math.nan, math.nan], nan_ok=True)


def test_top_label_of_example_b():
    # Predicted 0 with .7 (right) and .6 (wrong), 1 with .5 (right), 2 with .6 (right).
    expected = (abs(0.7 - 1) + abs(0.6 - 0) + abs(0.5 - 1) + abs(0.6 - 1)) / 4
    assert top_label_ece(PROBABILITIES_B, LABELS_B, num_bins=5) == pytest.approx(expected) == 0.45


def test_a_class_that_never_occurs_still_counts():
    # The number of classes comes from the probabilities, not from the largest label.
    p = np.array([[0.5, 0.2, 0.3]] * 2)
    value = classwise_ece(p, np.array([0, 1]), num_bins=5)
    assert value == pytest.approx((0 + 0.3 + 0.3) / 3)


def test_one_class_hides_another_from_ece_alone():
    p = np.array([[0.8, 0.2]] * 5 + [[0.2, 0.8]] * 5)
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 0, 0])
    assert ece(p, labels, num_bins=5) == pytest.approx(0.0, abs=1e-15)
    assert top_label_ece(p, labels, num_bins=5) == pytest.approx(0.2)


def test_classwise_ace_by_hand():
    # Two groups of two per class; class 0: .1 .2 | .6 .7 with labels 0 0 | 0 1.
    order = np.argsort(PROBABILITIES_B, axis=0, kind="stable")
    total = 0.0
    for j in range(3):
        gaps = (PROBABILITIES_B - np.eye(3)[LABELS_B])[order[:, j], j]
        total += abs(gaps[:2].sum()) + abs(gaps[2:].sum())
    value = classwise_ace(PROBABILITIES_B, LABELS_B, num_bins=2)
    assert value == pytest.approx(total / 4 / 3)
    assert classwise_ace_by_class(PROBABILITIES_B, LABELS_B, num_bins=2).mean() == value


def test_threshold_drops_small_probabilities():
    p = np.array([[0.9995, 0.0005], [0.6, 0.4]])
    labels = np.array([0, 1])
    # Class 0 keeps both, class 1 only .4; one group per class.
    expected = (abs(0.9995 + 0.6 - 1) / 2 + abs(0.4 - 1)) / 2
    assert classwise_ace(p, labels, num_bins=1, threshold=1e-3) == pytest.approx(expected)
    assert classwise_ace(p, labels, num_bins=1, threshold=2.0) == 0.0


def test_statistics_without_tables_are_refused():
    stats = CalibrationStats.from_probabilities(PROBABILITIES_B, LABELS_B)
    for metric in (classwise_ece_of, classwise_ace_of):
        with pytest.raises(ValueError, match="classwise=True"):
            metric(stats)


def test_classwise_ece_without_examples_is_nan():
    nothing = np.zeros((0, 3)), np.zeros(0, np.int64)
    stats = CalibrationStats.zero(StatsSpec(num_classes=3, classwise=True))
    assert math.isnan(classwise_ece(*nothing))
    assert math.isnan(top_label_ece(*nothing))
    assert math.isnan(classwise_ace(*nothing))
    for by_class in (classwise_ece_by_class, top_label_ece_by_class, classwise_ace_by_class):
        assert by_class(*nothing) == pytest.approx([math.nan] * 3, nan_ok=True)
    assert math.isnan(classwise_ace_of(stats).value)


def test_equal_mass_from_many_bins_is_close():
    p, labels = random_predictions(0, 4000, 5)
    spec = StatsSpec(num_bins=2000, num_classes=5, classwise=True)
    stats = CalibrationStats.from_probabilities(p, labels, spec)
    assert classwise_ace_of(stats).value == pytest.approx(classwise_ace(p, labels), abs=2e-3)
