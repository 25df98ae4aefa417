"""Where conventions agree, so do the numbers; where they do not, the difference is on record."""

import netcal.metrics
import numpy as np
import pytest
import sklearn.metrics
import torch
from known_examples import CONFIDENCE_A, CORRECT_A, random_predictions, rows_with
from torchmetrics.functional.classification import multiclass_calibration_error

from fl2ora.calibration.metrics import adaptive, binned, proper
from fl2ora.calibration.stats import CalibrationStats

P, LABELS = random_predictions(0, 2000, 10)


def by_torchmetrics(p, labels, num_bins, norm="l1"):
    value = multiclass_calibration_error(
        torch.as_tensor(p), torch.as_tensor(labels), p.shape[1], n_bins=num_bins, norm=norm
    )
    return float(value)


@pytest.mark.parametrize("num_bins", [5, 10, 15])
def test_ece_and_mce_away_from_edges(num_bins):
    ours = binned.ece(P, LABELS, num_bins=num_bins), binned.mce(P, LABELS, num_bins=num_bins)
    netcals = (
        netcal.metrics.ECE(num_bins).measure(P, LABELS),
        netcal.metrics.MCE(num_bins).measure(P, LABELS),
    )
    torchs = tuple(by_torchmetrics(P, LABELS, num_bins, norm) for norm in ("l1", "max"))
    assert ours == pytest.approx(netcals, abs=1e-10)
    assert ours == pytest.approx(torchs, abs=1e-6)


def test_average_and_root_mean_square():
    average = netcal.metrics.ACE(15).measure(P, LABELS)
    assert binned.average_ce(P, LABELS) == pytest.approx(average, abs=1e-10)
    root = by_torchmetrics(P, LABELS, 15, "l2")
    assert binned.rmsce(P, LABELS) == pytest.approx(root, abs=1e-6)


def test_proper_scores():
    ours = proper.nll(P, LABELS), proper.brier(P, LABELS)
    log_loss = sklearn.metrics.log_loss(LABELS, P, labels=range(10))
    brier = sklearn.metrics.brier_score_loss(LABELS, P, labels=range(10))
    assert ours == pytest.approx((log_loss, brier), abs=1e-12)


def test_reliability_diagram():
    confidence, correct = P.max(1), P.argmax(1) == LABELS
    accuracy, mean = sklearn.calibration.calibration_curve(correct, confidence, n_bins=15)
    bins = binned.filled_bins_of(CalibrationStats.from_probabilities(P, LABELS))
    np.testing.assert_allclose(bins.accuracy, accuracy)
    np.testing.assert_allclose(bins.confidence, mean)


def test_equal_mass_differs_only_by_the_cuts():
    theirs = netcal.metrics.ECE(15, equal_intervals=False).measure(
        P.max(1), (P.argmax(1) == LABELS).astype(int)
    )
    assert adaptive.adaptive_ece(P, LABELS) == pytest.approx(theirs, abs=2e-3)


def test_left_closed_libraries_differ_on_edges():
    # Ex-A has .2, .4 and .6 on edges. Right-closed .18; left-closed .22 where linspace puts the
    # edge .6 one bit above it, as numpy-based libraries do.
    p, labels = rows_with(CONFIDENCE_A, CORRECT_A)
    assert binned.ece(p, labels, num_bins=5) == pytest.approx(0.18)
    index = np.minimum(np.digitize(CONFIDENCE_A, np.linspace(0, 1, 6)) - 1, 4)
    assert index.tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4, 4]
    gaps = np.bincount(index, CONFIDENCE_A - CORRECT_A, 5)
    assert np.abs(gaps).sum() / 10 == pytest.approx(0.22)
    assert netcal.metrics.ECE(5).measure(CONFIDENCE_A, CORRECT_A) == pytest.approx(0.22)


def test_confidence_one_falls_in_a_bin_of_its_own_elsewhere():
    # 1.0 (right) and .95 (wrong): one bin of ours, two of torchmetrics.
    p, labels = rows_with([1.0, 0.95], [1, 0])
    assert binned.ece(p, labels, num_bins=10) == pytest.approx(abs(0.975 - 0.5))
    assert by_torchmetrics(p, labels, 10) == pytest.approx((0.95 + 0.0) / 2, abs=1e-6)
    assert binned.mce(p, labels, num_bins=10) == pytest.approx(0.475)
    assert by_torchmetrics(p, labels, 10, "max") == pytest.approx(0.95, abs=1e-6)
