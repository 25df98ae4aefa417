"""Partitioners: every example has one owner, everyone has enough, and equal draws are equal."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fl2ora.experiment.plugins import available, load
from fl2ora.experiment.spec import parse_spec
from fl2ora.federated_data.partition.base import Examples, Partitioner, PartitionError
from fl2ora.federated_data.partition.dirichlet import Dirichlet
from fl2ora.federated_data.partition.iid import Iid

Labels = NDArray[np.int64]
OURS = sorted({*available(Partitioner)} - {"flower"})
BETAS = st.sampled_from([1e-300, 1e-9, 1e-3, 0.1, 0.5, 1.0, 100.0, 1e6, 1e300, 1e308])


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _labels(count: int, classes: int) -> Labels:
    return np.arange(count, dtype=np.int64) % classes


def _examples(labels: Labels, domains: int = 2, clients: int = 60) -> Examples:
    """Return examples of so many domains and natural clients, and of superclasses of three."""
    numbers = np.arange(len(labels), dtype=np.int64)
    return Examples(labels, numbers % domains, labels // 3, numbers % clients)


def _check(shares: list[Labels], count: int, clients: int, minimum: int) -> None:
    assert len(shares) == clients
    assert all(share.dtype == np.int64 and share.ndim == 1 for share in shares)
    assert all(bool((np.diff(share) > 0).all()) for share in shares)  # sorted, none twice
    assert sorted(np.concatenate(shares).tolist()) == list(range(count))
    assert min(len(share) for share in shares) >= minimum


def _skew(shares: list[Labels], labels: Labels) -> float:
    """Return the mean total-variation distance of a client's classes from the whole's."""
    classes = int(labels.max()) + 1
    whole = np.bincount(labels, minlength=classes) / len(labels)
    own = [np.bincount(labels[s], minlength=classes) / max(1, len(s)) for s in shares]
    return float(np.mean([np.abs(row - whole).sum() / 2 for row in own]))


@given(
    count=st.integers(0, 200),
    classes=st.integers(1, 12),
    clients=st.integers(1, 15),
    seed=st.integers(0, 2**63 - 1),
)
def test_iid_shares_are_complete_and_even(
    count: int, classes: int, clients: int, seed: int
) -> None:
    labels = _labels(count, classes)
    if count < clients:
        with pytest.raises(PartitionError, match=f"{clients} clients with at least 1 examples"):
            Iid().split(labels, clients, _rng(seed))
        return
    shares = Iid().split(labels, clients, _rng(seed))
    _check(shares, count, clients, 1)
    assert {len(share) for share in shares} <= {count // clients, -(-count // clients)}
    again = Iid().split(labels, clients, _rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(shares, again, strict=True))


@given(
    count=st.integers(0, 200),
    classes=st.integers(1, 12),
    clients=st.integers(1, 15),
    beta=BETAS,
    minimum=st.integers(1, 20),
    seed=st.integers(0, 2**63 - 1),
)
@example(count=200, classes=1, clients=10, beta=1e-300, minimum=20, seed=0)  # not one to spare
@example(count=200, classes=10, clients=1, beta=0.5, minimum=10, seed=0)
def test_dirichlet_shares_are_complete_and_large_enough(
    count: int, classes: int, clients: int, beta: float, minimum: int, seed: int
) -> None:
    labels, partitioner = _labels(count, classes), Dirichlet(beta, minimum)
    if count < clients * minimum:
        with pytest.raises(PartitionError):
            partitioner.split(labels, clients, _rng(seed))
        return
    shares = partitioner.split(labels, clients, _rng(seed))
    _check(shares, count, clients, minimum)
    again = partitioner.split(labels, clients, _rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(shares, again, strict=True))


@pytest.mark.parametrize("text", OURS)
@given(
    labels=st.lists(st.sampled_from([0, 1, 2, 5, 6, 11]), max_size=120),
    clients=st.integers(1, 9),
    seed=st.integers(0, 2**63 - 1),
)
@example(labels=[], clients=1, seed=0)
@example(labels=[3], clients=1, seed=0)
@example(labels=[0, 1] * 45, clients=9, seed=0)
def test_every_partitioner_shares_out_everything_or_says_why_not(
    text: str, labels: list[int], clients: int, seed: int
) -> None:
    given_labels, partitioner = np.array(labels, dtype=np.int64), load(text, Partitioner)
    held = np.random.get_state()[1]
    try:
        shares = partitioner.split_examples(_examples(given_labels), clients, _rng(seed))
    except PartitionError as error:
        assert "clients" in str(error)  # noqa: PT017 (to be refused is right, too)
        return
    _check(shares, len(labels), clients, 1)
    assert given_labels.tolist() == labels
    again = load(text, Partitioner).split_examples(_examples(given_labels), clients, _rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(shares, again, strict=True))
    assert np.array_equal(np.random.get_state()[1], held)


@pytest.mark.parametrize("text", OURS)
def test_ten_thousand_clients_are_served(text: str) -> None:
    """A search of quadratic time would take hours here."""
    clients, count = 10_000, 120_000
    labels = _labels(count, clients if text == "disjoint" else 10)
    examples = _examples(labels, 4, clients + 5)
    shares = load(text, Partitioner).split_examples(examples, clients, _rng())
    _check(shares, count, clients, 1)


@pytest.mark.parametrize("text", OURS)
def test_other_seeds_give_other_shares(text: str) -> None:
    partitioner, labels = load(text, Partitioner), _labels(100, 5)
    first, second = (
        partitioner.split_examples(_examples(labels), 4, _rng(seed)) for seed in (0, 1)
    )
    assert any(a.tolist() != b.tolist() for a, b in zip(first, second, strict=True))


def test_an_infeasible_request_is_refused_with_the_reason() -> None:
    with pytest.raises(PartitionError) as caught:
        Dirichlet(minimum=10).split(_labels(99, 3), 10, _rng())
    assert str(caught.value) == (
        "10 clients with at least 10 examples each need 100, the data has 99: "
        "use fewer clients or more data"
    )


@pytest.mark.parametrize("beta", [1e6, 1e12, 1e15, 1e300, 1.7e308])
def test_a_large_beta_is_like_iid(beta: float) -> None:
    """Shares of 10,000 examples differ by what a draw of that beta leaves, and rounding."""
    labels = _labels(10_000, 10)
    shares = Dirichlet(beta).split(labels, 8, _rng())
    assert all(abs(len(share) - 1250) < 15 for share in shares)
    for share in shares:
        assert np.abs(np.bincount(labels[share], minlength=10) - 125).max() <= 2


@pytest.mark.parametrize("beta", [1e-300, 1e-6])
def test_a_tiny_beta_gives_each_class_to_one_client(beta: float) -> None:
    labels = _labels(10_000, 10)
    shares = Dirichlet(beta, minimum=1).split(labels, 4, _rng(1))
    owners = np.array([[np.sum(labels[share] == c) for share in shares] for c in range(10)])
    assert (owners.max(axis=1) >= 1000 - 3).all()


def test_skew_falls_as_beta_grows() -> None:
    labels = _labels(5000, 10)
    skews = [
        _skew(Dirichlet(beta).split(labels, 10, _rng()), labels) for beta in (0.05, 0.5, 5, 500)
    ]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.6
    assert skews[-1] < 0.05
    assert _skew(Iid().split(labels, 10, _rng()), labels) < 0.1


def test_the_draw_is_the_one_of_the_papers() -> None:
    """Class by class: shuffle, draw proportions, cut at their rounded cumulative sums."""
    labels = np.array([1, 0, 1, 1, 0, 2, 2, 0, 1, 0, 2, 1] * 5, dtype=np.int64)
    expected: list[set[int]] = [set(), set(), set()]
    rng = _rng(7)
    for label in range(3):
        members = [i for i, value in enumerate(labels) if value == label]
        members = [members[i] for i in rng.permutation(len(members))]
        proportions = rng.dirichlet([0.5, 0.5, 0.5])
        first = round(proportions[0] * len(members))
        second = round((proportions[0] + proportions[1]) * len(members))
        for client, part in enumerate((members[:first], members[first:second], members[second:])):
            expected[client] |= set(part)
    assert min(map(len, expected)) >= 1  # so nothing has to be moved
    found = Dirichlet(0.5, minimum=1).split(labels, 3, _rng(7))
    assert [set(share.tolist()) for share in found] == expected


def test_topping_up_takes_from_the_largest_only() -> None:
    labels = np.zeros(100, dtype=np.int64)
    plain = Dirichlet(0.7, minimum=1).split(labels, 5, _rng(5))
    topped = Dirichlet(0.7, minimum=12).split(labels, 5, _rng(5))
    assert [len(share) for share in plain] == [3, 7, 65, 15, 10]
    assert [len(share) for share in topped] == [12, 12, 49, 15, 12]
    gained = [set(b.tolist()) - set(a.tolist()) for a, b in zip(plain, topped, strict=True)]
    assert [len(numbers) for numbers in gained] == [9, 5, 0, 0, 2]
    assert set.union(*gained) == set(plain[2].tolist()) - set(topped[2].tolist())


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_a_beta_out_of_range_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=f"beta: expected a finite number above 0, found {beta}"):
        Dirichlet(beta)


def test_a_minimum_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="minimum: expected at least 1, found 0"):
        Dirichlet(minimum=0)


def test_the_docs_have_a_row_for_every_partitioner() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    table = text.partition("## Partitions")[2].partition("## ")[0]
    specs = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert sorted(parse_spec(spec).name for spec in specs) == sorted([*OURS, "flower"])
    ours = [spec for spec in specs if parse_spec(spec).name in OURS]
    for spec in ours:  # with all its arguments, at their defaults
        shown, plain = load(spec, Partitioner), load(parse_spec(spec).name, Partitioner)
        assert vars(shown) == vars(plain)
        assert parse_spec(spec).kwargs.keys() == vars(plain).keys()
