import math

import pytest
import torch

from fl2ora.calibration.metrics.dispersion import orthogonality_gap, text_dispersion

FEATURES = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.6, 0.8]])


def test_three_features_by_hand():
    mean = [1.6 / 3, 1.4 / 3, 0.8 / 3]
    expected = sum(math.dist(row, mean) for row in FEATURES.tolist()) / 3
    assert text_dispersion(FEATURES) == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(0.636599, abs=1e-6)


def test_orthogonality_by_hand():
    # Inner products .6, .48 and 0, each twice in the matrix.
    assert orthogonality_gap(FEATURES) == pytest.approx(2 * (0.6**2 + 0.48**2), abs=1e-6)


def test_equal_features_have_none_and_orthogonal_ones_no_gap():
    assert text_dispersion(torch.tensor([[0.0, 1.0]] * 3)) == 0.0
    assert orthogonality_gap(torch.eye(4)) == 0.0
    assert text_dispersion(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == 1.0


def test_features_must_be_unit_rows():
    with pytest.raises(ValueError, match="unit length, found 2 to 2"):
        text_dispersion(2 * torch.eye(3))
    with pytest.raises(ValueError, match="shape"):
        text_dispersion(torch.ones(3))
