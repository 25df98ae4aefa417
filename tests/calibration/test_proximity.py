import math

import numpy as np
import pytest
import torch
from known_examples import CONFIDENCE_A, CORRECT_A, random_predictions, rows_with

from fl2ora.calibration.metrics.binned import bin_stats, ece
from fl2ora.calibration.metrics.proximity import (
    mean_distance,
    piece,
    piece_of,
    proximity_edges,
    proximity_group,
)

DISTANCES_A = np.array([0.2, 0.9, 0.3, 0.8, 0.1, 0.7, 0.4, 0.6, 0.5, 1.0])


def test_proximity_errors_of_example_a():
    # Near (d < .55): examples 0 2 4 6 8; far: 1 3 5 7 9. Each alone in its bin, but 7 and 9.
    near = 0.1 + 0.65 + 0.45 + 0.25 + 0.95
    far = 0.2 + 0.4 + 0.6 + abs(0.9 + 1.0 - 2)
    p, labels = rows_with(CONFIDENCE_A, CORRECT_A)
    value = piece(p, labels, DISTANCES_A, num_bins=5, num_groups=2)
    assert value == pytest.approx((near + far) / 10) == 0.37


def test_any_monotone_proximity_gives_the_same():
    p, labels = random_predictions(0, 100, 4)
    distances = np.random.default_rng(1).uniform(size=100)
    value = piece(p, labels, distances, num_groups=5)
    assert piece(p, labels, -np.exp(-distances), num_groups=5) == pytest.approx(value)
    assert piece(torch.from_numpy(p), torch.from_numpy(labels), distances, num_groups=5) == value


def test_one_group_is_ece_and_more_never_less():
    p, labels = random_predictions(0, 200, 4)
    distances = np.random.default_rng(1).uniform(size=200)
    base = ece(p, labels, num_bins=10)
    assert piece(p, labels, distances, num_groups=1) == pytest.approx(base)
    assert piece(p, labels, distances, num_groups=7) >= base


def test_clients_that_share_edges_add_up_exactly():
    p, labels = random_predictions(0, 120, 4)
    distances = np.random.default_rng(1).uniform(size=120)
    edges = proximity_edges(distances, 3)
    group = proximity_group(distances, edges)
    totals = []
    for h in range(3):
        clients = [np.flatnonzero(group[i::4] == h) * 4 + i for i in range(4)]
        totals.append(sum(bin_stats(p[rows], labels[rows], 10) for rows in clients))
    assert piece_of(totals) == pytest.approx(piece(p, labels, distances, num_groups=3))


def test_mean_distance_to_the_nearest():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    reference = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 7.0]])
    assert mean_distance(features, reference, neighbours=2) == pytest.approx(
        [0.5, (math.hypot(3, 3) + math.hypot(3, 3)) / 2]
    )
    with pytest.raises(ValueError, match=r"neighbours must be 1 \.\. 3, found 10"):
        mean_distance(features, reference)


def test_no_examples():
    nothing = np.zeros((0, 2)), np.zeros(0, np.int64)
    assert math.isnan(piece(*nothing, np.zeros(0)))
    assert math.isnan(piece_of([]))
