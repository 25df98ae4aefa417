"""Thresholds on confidence: their bound, and that the promise holds on new images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from fl2ora.calibration.abstention import abstention_for, abstentions, clopper_pearson_lower


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 400), st.data(), st.sampled_from([0.05, 0.0025, 0.5]))
def test_at_the_lower_bound_so_many_hits_have_the_probability_of_the_risk(
    count: int, data: st.DataObject, risk: float
) -> None:
    right = data.draw(st.integers(1, count))
    bound = clopper_pearson_lower(right, count, risk)
    assert binom.sf(right - 1, count, bound) == pytest.approx(risk, rel=1e-6)


def _draw(rng: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return confidences, uniform in [0, 1], that are right as often as they say."""
    confidence = rng.random(images)
    return confidence, (rng.random(images) < confidence).astype(np.float64)


def test_the_promise_is_kept_and_costs_little() -> None:
    # Above a threshold t the true accuracy is (1 + t) / 2.
    rng, wanted, broken, answered = np.random.default_rng(0), 0.8, 0, []
    for _ in range(400):
        found = abstention_for(*_draw(rng, 500), wanted, risk=0.2)
        if found is not None:
            answered.append(found.answered)
            broken += (1 + found.below) / 2 < wanted
    assert broken / 400 <= 0.2
    assert np.mean(answered) > 0.5 * 0.4  # 0.4 is what the truth would allow


def test_each_bound_fails_about_as_often_as_its_part_of_the_risk() -> None:
    rng, draws = np.random.default_rng(2), 1000
    failed = np.zeros(20)
    for _ in range(draws):
        for place, one in enumerate(abstentions(*_draw(rng, 400), risk=20 * 0.05)):
            failed[place] += one.at_least > (1 + one.below) / 2
    assert (failed / draws < 0.05 + 4 * np.sqrt(0.05 * 0.95 / draws)).all()
    assert failed[5:].mean() / draws > 0.02  # discrete, so somewhat below 0.05


def test_what_is_reported_is_what_the_threshold_does_to_these_images() -> None:
    confidence, correct = _draw(np.random.default_rng(1), 300)
    found = abstentions(confidence, correct)
    assert len(found) == 20
    assert found[-1].below == 0
    assert found[-1].answered == 1
    for one in found:
        chosen = confidence >= one.below
        assert one.answered == pytest.approx(chosen.mean())
        assert one.accuracy == pytest.approx(correct[chosen].mean())
        lower = clopper_pearson_lower(int(correct[chosen].sum()), int(chosen.sum()), 0.05 / 20)
        assert one.at_least == pytest.approx(lower)


def test_equal_confidences_are_answered_together_or_not_at_all() -> None:
    confidence = np.repeat([0.9, 0.7, 0.5], [110, 90, 100])
    correct = np.concatenate([np.ones(110), np.tile([1.0, 0.0], 45), np.zeros(100)])
    found = abstentions(confidence, correct)
    assert [one.answered for one in found] == pytest.approx([110 / 300, 200 / 300, 1])
    best = abstention_for(confidence, correct, 0.9)
    assert best is not None
    assert 0.7 < best.below <= 0.9


def test_without_a_way_there_is_none() -> None:
    confidence, correct = np.linspace(0, 1, 40), np.zeros(40)
    assert abstention_for(confidence, correct, 0.5) is None
    assert abstention_for(np.ones(5), np.ones(5), 0.999) is None
