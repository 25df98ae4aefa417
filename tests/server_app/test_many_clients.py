"""Of a thousand clients' sums only those in use are in memory, and all numbers are the same."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.federated_data.images import LabelledImages
from fl2ora.reporting.client_panels import worst_of
from fl2ora.server_app.client_sums import ClientSums
from fl2ora.server_app.metrics_by_source import client_metrics

SPEC = StatsSpec(num_bins=5)


class OneAtATime(Mapping[str, CalibrationStats]):
    """Sums of a client made by hand, which counts how many of them are in memory at once."""

    def __init__(self, clients: int) -> None:
        self._clients, self.most = clients, 0
        self._alive: weakref.WeakSet[CalibrationStats] = weakref.WeakSet()

    def __getitem__(self, client: str) -> CalibrationStats:
        right = int(client)  # of as many predictions of confidence 0.75 as there are clients
        labels = np.array([0] * right + [1] * (self._clients - right))
        p = np.tile([0.75, 0.25], (self._clients, 1))
        made = CalibrationStats.from_probabilities(p, labels, SPEC)
        self._alive.add(made)
        self.most = max(self.most, len(self._alive))
        return made

    def __iter__(self) -> Iterator[str]:
        return map(str, range(self._clients))

    def __len__(self) -> int:
        return self._clients


def test_metrics_of_clients_take_each_clients_sums_in_turn() -> None:
    clients = OneAtATime(100)
    found = client_metrics(clients, 0, "clients-test")
    assert found["clients-test-mean"]["accuracy"] == pytest.approx(0.495)
    assert found["clients-test"]["num_examples"] == 10_000
    assert found["clients-test"]["ece"] == pytest.approx(0.255)
    assert clients.most <= 3


def test_the_worst_clients_are_found_with_few_in_memory() -> None:
    clients = OneAtATime(100)
    worst = worst_of(clients, 4)
    assert [name for name, _ in worst.shown] == ["0", "1", "2", "3"]  # ECE 0.75, 0.74, ...
    assert (worst.measured, worst.clients) == (100, 100)
    assert clients.most <= 4 + 2


def test_sums_made_on_demand_are_those_of_the_logits() -> None:
    rng = torch.Generator().manual_seed(1)
    logits = {name: torch.randn(n, 3, generator=rng) for name, n in (("b", 4), ("a", 0), ("c", 2))}
    images = {name: _labelled([i % 3 for i in range(len(rows))]) for name, rows in logits.items()}
    sums = ClientSums(logits, images, SPEC)
    assert (list(sums), len(sums)) == (["b", "a", "c"], 3)
    for name, rows in logits.items():
        p = torch.softmax(rows.double(), dim=1).numpy()
        kept = images[name].labels.numpy()
        assert sums[name].num_examples == len(rows)
        assert float(sums[name].nll) == pytest.approx(-np.log(p[np.arange(len(p)), kept]).sum())
        assert sums[name].correct.sum() == (p.argmax(axis=1) == kept).sum()
        assert len(sums[name].count) == SPEC.num_bins
    with pytest.raises(KeyError):
        sums["d"]


def _labelled(labels: list[int]) -> LabelledImages:
    pixels = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    zeros = torch.zeros(len(labels), dtype=torch.int64)
    return LabelledImages(pixels, torch.tensor(labels, dtype=torch.int64), zeros)
