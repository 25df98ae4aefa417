"""Laws of aggregation, on drawn clients: order, scale of the weights, streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.plugins import load
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.updates import ClientUpdate
from planned import begun, combine, plan_of

SPECS = [
    "fedavg", "fedprox", "feddyn(alpha=0.1)", "fednova", "fednova(mu=0.1, momentum=0.9)",
    "scaffold", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "median", "trimmed_mean", "krum",
    "multi_krum", "geometric_median", "attacked(inner='fednova', clients='c0')",
]  # fmt: skip
CURRENT: Adapter = {"a": torch.zeros(2), "b": torch.ones(1, 1)}
CLIENTS = [f"c{index}" for index in range(10)]
LAW = settings(max_examples=15, deadline=None)

floats = st.floats(-100, 100, width=32)


@st.composite
def rounds(draw: st.DrawFn) -> list[ClientUpdate]:
    """Draw what 1 to 8 clients answer, with all that any strategy asks for."""
    updates = []
    for index in range(draw(st.integers(1, 8))):
        a, b, c, d = (draw(floats) for _ in range(4))
        aux = {"a": torch.tensor([c, d]), "b": torch.tensor([[a]])}
        aux["normaliser"] = torch.tensor([draw(st.floats(0.5, 50, width=32))])
        aux["steps"] = torch.tensor([float(draw(st.integers(1, 50)))])
        aux["distance"] = torch.tensor([float(draw(st.integers(1, 50)))])
        adapter = {"a": torch.tensor([a, b]), "b": torch.tensor([[c]])}
        size = draw(st.integers(1, 1000))
        updates.append(ClientUpdate(f"c{index}", adapter, size, aux=aux))
    return updates


def trimmed(spec: str, updates: list[ClientUpdate]) -> list[ClientUpdate]:
    """Leave in aux what the strategy knows."""
    known = {"scaffold": ("distance",), "fednova": ("normaliser", "steps")}
    names = next((names for word, names in known.items() if word in spec), ())
    return [replace(u, aux={name: u.aux[name] for name in names}) for u in updates]


def aggregate(spec: str, updates: list[ClientUpdate]) -> Adapter:
    strategy = begun(load(spec, Strategy), CLIENTS, CURRENT)
    first = combine(strategy, CURRENT, trimmed(spec, updates))
    return combine(strategy, first, trimmed(spec, updates), 2)


@pytest.mark.parametrize("spec", SPECS)
@given(updates=rounds(), rng=st.randoms())
@LAW
def test_the_order_of_clients_changes_nothing(
    spec: str, updates: list[ClientUpdate], rng: Random
) -> None:
    shuffled = list(updates)
    rng.shuffle(shuffled)
    left, right = aggregate(spec, updates), aggregate(spec, shuffled)
    assert all(torch.equal(left[name], right[name]) for name in CURRENT)


@pytest.mark.parametrize("spec", SPECS)
@given(updates=rounds(), factor=st.integers(2, 1000))
@LAW
def test_the_scale_of_the_weights_changes_nothing(
    spec: str, updates: list[ClientUpdate], factor: int
) -> None:
    scaled = [replace(u, num_examples=u.num_examples * factor) for u in updates]
    left, right = aggregate(spec, updates), aggregate(spec, scaled)
    for name in CURRENT:
        torch.testing.assert_close(left[name], right[name], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
@given(updates=rounds())
@LAW
def test_a_stream_gives_what_a_list_gives(spec: str, updates: list[ClientUpdate]) -> None:
    def stream() -> Iterator[ClientUpdate]:
        yield from trimmed(spec, updates)

    results = []
    for source in (stream(), trimmed(spec, updates)):
        strategy = begun(load(spec, Strategy), CLIENTS, CURRENT)
        results.append(strategy.aggregate(plan_of(updates, CURRENT), source))
    assert all(torch.equal(results[0][name], results[1][name]) for name in CURRENT)


@pytest.mark.parametrize("spec", ["fedavg", "median", "trimmed_mean", "geometric_median"])
@given(updates=rounds(), shift=st.integers(-50, 50))
@LAW
def test_shifting_every_client_shifts_the_result(
    spec: str, updates: list[ClientUpdate], shift: int
) -> None:
    moved = [
        replace(u, adapter={name: t + shift for name, t in u.adapter.items()}) for u in updates
    ]
    strategy = load(spec, Strategy)
    left = combine(strategy, CURRENT, updates)
    right = combine(strategy, {n: t + shift for n, t in CURRENT.items()}, moved)
    for name in CURRENT:
        torch.testing.assert_close(left[name] + shift, right[name], rtol=1e-3, atol=1e-2)
