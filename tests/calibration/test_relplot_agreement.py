"""Smooth ECE against the authors' own package, away from confidences of exactly 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest
import relplot

from fl2ora.calibration.metrics.smooth import smooth_ece, smooth_ece_of
from fl2ora.calibration.stats import CalibrationStats


@pytest.mark.parametrize(("seed", "size", "classes"), [(0, 200, 4), (1, 2000, 4), (2, 5000, 10)])
def test_smooth_ece_agrees_with_relplot(seed: int, size: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.5] * classes, size=size)
    # True probabilities are flatter: the predictions are overconfident.
    true = np.sqrt(probabilities)
    true /= true.sum(axis=1, keepdims=True)
    labels = (rng.random(size)[:, None] > true.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    confidence = probabilities.max(axis=1)
    correct = (probabilities.argmax(axis=1) == labels).astype(float)
    theirs = relplot.smECE(confidence, correct)
    assert theirs > 0.05
    # relplot stops its bisection at 1e-3 and works on a mesh of 200 points.
    assert smooth_ece(probabilities, labels) == pytest.approx(theirs, abs=1e-3)
    stats = CalibrationStats.from_probabilities(probabilities, labels)
    assert smooth_ece_of(stats).value == pytest.approx(theirs, abs=2e-3)
