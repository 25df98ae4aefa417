import numpy as np
import pytest
import torch
from known_examples import random_predictions

from fl2ora.calibration.accumulator import CalibrationAccumulator
from fl2ora.calibration.metrics.table import METRICS
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.calibration.summaries import summarise

EVERYTHING = " + ".join(metric.name for metric in METRICS)


def meter(inputs, metrics=EVERYTHING):
    return CalibrationAccumulator(inputs, metrics, num_bins=10, num_classes=4)


def test_a_stream_equals_one_pass():
    p, labels = random_predictions(0, 103, 4)
    accumulator = meter("probabilities")
    for start in range(0, 103, 10):
        accumulator.update(p[start : start + 10], labels[start : start + 10])
    stats = CalibrationStats.from_probabilities(p, labels, accumulator.stats.spec)
    found = accumulator.compute()
    assert list(found) == ["num_examples", *(metric.name for metric in METRICS)]
    assert found == pytest.approx(summarise(stats, METRICS), rel=1e-9)


def test_two_accumulators_of_logits_add_up():
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) * 3
    labels = torch.arange(40) % 4
    halves = [meter("logits"), meter("logits")]
    halves[0].update(logits[:20].half(), labels[:20])
    halves[1].update(logits[20:].half(), labels[20:])
    whole = meter("logits")
    whole.update(logits.half(), labels)
    assert (halves[0] + halves[1]).compute() == pytest.approx(whole.compute(), rel=1e-9)
    assert halves[0].compute()["num_examples"] == 20


def test_reset_forgets_everything():
    accumulator = CalibrationAccumulator("probabilities", "accuracy")
    accumulator.update(np.array([[0.9, 0.1]]), np.array([1]))
    accumulator.reset()
    accumulator.update(np.array([[0.9, 0.1]]), np.array([0]))
    assert accumulator.compute() == {"num_examples": 1.0, "accuracy": 1.0}


def test_binary_scores_are_probabilities_of_class_one():
    accumulator = CalibrationAccumulator("binary_scores", "accuracy + confidence + nll")
    accumulator.update(np.array([0.9, 0.2, 0.4]), np.array([1, 0, 1]))
    found = accumulator.compute()
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["confidence"] == pytest.approx((0.9 + 0.8 + 0.6) / 3)
    assert found["nll"] == pytest.approx(-np.log([0.9, 0.8, 0.4]).mean())


def test_the_score_itself_is_judged_by_class_one():
    # Scores .2 and .8 in bins of their own: gaps of the sums .4 - 1 and .8 - 1 over 3 examples.
    accumulator = CalibrationAccumulator("binary_scores", "classwise_ece", num_bins=5)
    accumulator.update(np.array([0.2, 0.2, 0.8]), np.array([0, 1, 1]))
    assert accumulator.compute()["classwise_ece"] == pytest.approx((0.6 + 0.2) / 3)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.5, 1.2], r"1 of 2 binary scores lie outside \[0, 1\] or are NaN \(first: 1.2\)"),
        ([0.5, np.nan], "1 of 2 binary scores"),
        ([[0.5, 0.5]], r"must be floats of shape \(N,\), found torch.float64 \(1, 2\)"),
        ([0, 1], "must be floats"),
    ],
)
def test_binary_scores_that_are_none_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        CalibrationStats.from_binary_scores(np.array(scores), np.zeros(2, np.int64))


def test_binary_labels_beyond_one_are_refused():
    with pytest.raises(ValueError, match=r"1 of 2 labels lie outside 0 .. 1 \(first: 2\)"):
        CalibrationStats.from_binary_scores(np.array([0.5, 0.5]), np.array([0, 2]))


def test_mistakes_in_its_construction():
    with pytest.raises(ValueError, match="inputs must be one of logits, probabilities, binary_sc"):
        CalibrationAccumulator("scores")
    with pytest.raises(ValueError, match="did you mean 'ece'"):
        CalibrationAccumulator("logits", "ecee")
    with pytest.raises(ValueError, match="need num_classes, found 0"):
        CalibrationAccumulator("logits", "classwise_ece")
    with pytest.raises(ValueError, match="num_bins 15 and 10"):
        CalibrationAccumulator() + CalibrationAccumulator(num_bins=10)
