import numpy as np
import pytest
from known_examples import CONFIDENCE_A

from fl2ora.calibration.binning import bin_edges, bin_index, sum_by_bin


def test_edges_are_quotients_and_shared():
    edges = bin_edges(5)
    assert edges.tolist() == [0, 1 / 5, 2 / 5, 3 / 5, 4 / 5, 1]
    assert edges is bin_edges(5)
    assert edges[3] != np.linspace(0, 1, 6)[3]  # the last bit that moves 0.6
    with pytest.raises(ValueError, match="read-only"):
        edges[0] = 1


def test_bins_are_right_closed_and_drop_nothing():
    index = bin_index(CONFIDENCE_A, 5)
    assert index.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 4, 4]
    assert bin_index(np.array([0.0, 1.0]), 5).tolist() == [0, 4]
    assert bin_index(np.array([0.0, 0.3, 1.0]), 1).tolist() == [0, 0, 0]


@pytest.mark.parametrize("num_bins", [1, 2, 3, 7, 10, 15, 49, 1000])
def test_every_edge_belongs_to_the_bin_it_closes(num_bins):
    edges = np.array([j / num_bins for j in range(num_bins + 1)])
    assert bin_index(edges[1:], num_bins).tolist() == list(range(num_bins))
    above = np.nextafter(edges[:-1], 1)
    assert bin_index(above, num_bins).tolist() == list(range(num_bins))


def test_a_float32_value_is_not_the_float64_edge():
    values = np.array([0.6, np.float32(0.6)], np.float64)
    assert bin_index(values, 5).tolist() == [2, 3]


def test_shape_is_kept():
    assert bin_index(np.full((2, 3), 0.5), 4).shape == (2, 3)
    assert bin_index(np.zeros(0), 4).shape == (0,)


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_values_outside_the_unit_interval_are_counted(bad):
    with pytest.raises(ValueError, match="1 of 2 values lie outside"):
        bin_index(np.array([0.5, bad]), 5)


def test_no_bins_is_an_error():
    with pytest.raises(ValueError, match="num_bins must be at least 1, found 0"):
        bin_edges(0)


def test_sums_include_empty_bins():
    index = np.array([0, 0, 3])
    assert sum_by_bin(index, None, 5).tolist() == [2, 0, 0, 1, 0]
    assert sum_by_bin(index, np.array([0.5, 1, 2]), 5).tolist() == [1.5, 0, 0, 2, 0]
