"""What holds between the metrics of clients and those of the federation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_examples import CONFIDENCE_A, CORRECT_A, random_predictions, rows_with

from fl2ora.calibration.metrics.binned import ece_of, mce_of, mce_weighted_of, rmsce_of
from fl2ora.calibration.metrics.classwise import classwise_ece_of, top_label_ece_of
from fl2ora.calibration.metrics.table import chosen_metrics
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summaries import summarise, summarise_clients

SPEC = StatsSpec(num_bins=5, num_classes=3, fine_bins=50, classwise=True)


def client(confidence, correct, num_bins=5):
    p, labels = rows_with(confidence, correct)
    return CalibrationStats.from_probabilities(p, labels, StatsSpec(num_bins=num_bins))


def test_errors_of_opposite_sign_cancel_between_clients():
    # Two clients, ten examples each, all of confidence .8: one right 10 times, one 6 times.
    clients = [client([0.8] * 10, [1] * 10), client([0.8] * 10, [1] * 6 + [0] * 4)]
    assert [ece_of(stats) for stats in clients] == pytest.approx([0.2, 0.2])
    pooled = summarise(sum(clients))
    spread = summarise_clients(clients)
    assert pooled["ece"] == pytest.approx(0.0, abs=1e-15)
    assert spread["client_mean_ece"] == spread["client_weighted_mean_ece"] == pytest.approx(0.2)
    assert not set(pooled) & set(spread)


def test_example_a_split_between_two_clients():
    clients = [client(CONFIDENCE_A[:4], CORRECT_A[:4]), client(CONFIDENCE_A[4:], CORRECT_A[4:])]
    spread = summarise_clients(clients)
    # Client 1: bins .15 of 2 and .125 of 2; client 2: .075 of 2, .25 of 1, .283 of 3.
    first = 0.5 * 0.15 + 0.5 * 0.125
    second = (2 * 0.075 + 0.25 + 0.85) / 6
    assert spread["client_min_ece"] == pytest.approx(first)
    assert spread["client_max_ece"] == pytest.approx(second)
    assert spread["client_mean_ece"] == pytest.approx((first + second) / 2)
    assert spread["client_weighted_mean_ece"] == pytest.approx(0.4 * first + 0.6 * second)
    assert spread["client_std_ece"] == pytest.approx((second - first) / 2)
    assert (first, second) == pytest.approx((0.1375, 0.208333), abs=1e-6)
    assert summarise(sum(clients))["ece"] == pytest.approx(0.18)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 15), min_size=1, max_size=5), st.integers(0, 10_000))
def test_pooled_error_is_never_above_the_clients(sizes, seed):
    clients = [
        CalibrationStats.from_probabilities(*random_predictions(seed + i, n, 3), SPEC)
        for i, n in enumerate(sizes)
    ]
    pooled, weights = sum(clients), np.array(sizes) / sum(sizes)
    for metric in (ece_of, classwise_ece_of, top_label_ece_of):
        mean = weights @ [metric(stats) for stats in clients]
        assert metric(pooled) <= mean + 1e-12
    assert rmsce_of(pooled) ** 2 <= weights @ [rmsce_of(stats) ** 2 for stats in clients] + 1e-12
    assert mce_of(pooled) <= max(mce_of(stats) for stats in clients) + 1e-12
    assert mce_weighted_of(pooled) <= max(map(ece_of, clients)) + 1e-12
    assert ece_of(pooled) <= top_label_ece_of(pooled) + 1e-12


def test_clients_without_examples_do_not_count():
    clients = [client([0.8], [1]), CalibrationStats.zero(StatsSpec(num_bins=5))]
    spread = summarise_clients(clients)
    assert spread["num_clients"] == 1
    assert spread["client_mean_ece"] == pytest.approx(0.2)
    assert math.isnan(spread["client_std_ece"])  # one client has no spread


def test_no_clients_are_nan():
    spread = summarise_clients([])
    assert spread.pop("num_clients") == 0
    assert len(spread) == 12 * 5 + 11  # all but confidence have a worst
    assert all(math.isnan(value) for value in spread.values())


def test_an_infinite_nll_of_one_client_raises_no_warning():
    p = np.array([[1.0, 0.0]])
    clients = [CalibrationStats.from_probabilities(p, np.array([y])) for y in (0, 1)]
    spread = summarise_clients(clients)
    assert spread["client_max_nll"] == spread["client_mean_nll"] == math.inf
    assert math.isnan(spread["client_std_nll"])


def test_a_client_without_errors_has_no_auroc_and_does_not_count():
    auroc = chosen_metrics("auroc")
    clients = [client([0.8, 0.9], [1, 1]), client([0.7, 0.8], [0, 1]), client([0.7, 0.8], [1, 0])]
    spread = summarise_clients(clients, auroc)
    assert spread == {
        **{"num_clients": 3, "client_mean_auroc": 0.5, "client_weighted_mean_auroc": 0.5},
        **{"client_std_auroc": 0.5, "client_min_auroc": 0, "client_max_auroc": 1},
        "client_worst_auroc": 0,
    }
    alone = summarise_clients(clients[:1], auroc)
    assert alone.pop("num_clients") == 1
    assert all(math.isnan(value) for value in alone.values())
