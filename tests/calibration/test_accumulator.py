import doctest

import pytest
import torch
from known_examples import random_predictions

import fl2ora.calibration.accumulator
from fl2ora.calibration.accumulator import CalibrationAccumulator
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summary import summarise

SPEC = StatsSpec(num_bins=10, num_classes=4, fine_bins=50, classwise=True)


def test_a_stream_equals_one_pass():
    p, labels = random_predictions(0, 103, 4)
    accumulator = CalibrationAccumulator(SPEC)
    for start in range(0, 103, 10):
        accumulator.update_probabilities(p[start : start + 10], labels[start : start + 10])
    whole = summarise(CalibrationStats.from_probabilities(p, labels, SPEC))
    assert accumulator.summary() == pytest.approx(whole, rel=1e-12)


def test_logits_and_two_accumulators():
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) * 3
    labels = torch.arange(40) % 4
    halves = [CalibrationAccumulator(SPEC), CalibrationAccumulator(SPEC)]
    halves[0].update_logits(logits[:20].half(), labels[:20])
    halves[1].update_logits(logits[20:].half(), labels[20:])
    both = halves[0].stats + halves[1].stats
    assert summarise(both) == pytest.approx(
        summarise(CalibrationStats.from_logits(logits.half(), labels, SPEC)), rel=1e-12
    )


def test_the_example_in_its_docstring():
    assert doctest.testmod(fl2ora.calibration.accumulator).failed == 0
