"""What each skewed partitioner promises, against published draws and counts by hand."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fl2ora.federated_data.partition._dealing import dealt, top_up
from fl2ora.federated_data.partition.base import Partitioner, PartitionError
from fl2ora.federated_data.partition.classes import Classes
from fl2ora.federated_data.partition.dirichlet import Dirichlet
from fl2ora.federated_data.partition.dirichlet_balanced import DirichletBalanced
from fl2ora.federated_data.partition.disjoint import Disjoint
from fl2ora.federated_data.partition.quantity import Quantity
from fl2ora.federated_data.partition.shards import Shards

Labels = NDArray[np.int64]


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _labels(count: int, classes: int) -> Labels:
    return np.arange(count, dtype=np.int64) % classes


def _sizes(shares: list[Labels]) -> list[int]:
    return [len(share) for share in shares]


def _classes(shares: list[Labels], labels: Labels) -> list[set[int]]:
    return [set(labels[share].tolist()) for share in shares]


@pytest.mark.parametrize("seed", range(8))
def test_the_balanced_draw_is_the_published_one(seed: int) -> None:
    """Once with a generator, as the code of Yurochkin et al. and NIID-Bench draws."""
    labels, clients, beta = _labels(600, 10), 6, 0.5
    rng, parts = _rng(seed), [list[int]() for _ in range(6)]
    for label in range(10):
        members = rng.permutation(np.where(labels == label)[0])
        p = rng.dirichlet(np.repeat(beta, clients))
        p = np.array([q * (len(part) < 600 / clients) for q, part in zip(p, parts, strict=True)])
        p = p / p.sum()
        # Rounded, since 0.999... of a class would leave one example to a client that has enough.
        cuts = (np.cumsum(p).round(12) * len(members)).astype(int)[:-1]
        parts = [
            part + new.tolist() for part, new in zip(parts, np.split(members, cuts), strict=True)
        ]
    fewest = min(map(len, parts))
    assert fewest >= 1
    found = DirichletBalanced(beta, minimum=fewest).split(labels, clients, _rng(seed))
    assert [share.tolist() for share in found] == [sorted(part) for part in parts]


@given(
    clients=st.integers(1, 12),
    classes=st.integers(1, 12),
    beta=st.sampled_from([1e-300, 1e-3, 0.1, 1.0, 1e300]),
    seed=st.integers(0, 2**63 - 1),
)
def test_no_client_of_a_balanced_draw_is_larger_than_its_part_and_one_class(
    clients: int, classes: int, beta: float, seed: int
) -> None:
    labels = _labels(200, classes)
    shares = DirichletBalanced(beta, minimum=3).split(labels, clients, _rng(seed))
    assert max(_sizes(shares)) < 200 / clients + -(-200 // classes) + 3
    assert min(_sizes(shares)) >= 3


def test_sizes_of_a_quantity_draw_are_the_dirichlets() -> None:
    labels = _labels(10_000, 10)
    rng = _rng(4)
    rng.permutation(10_000)
    drawn = rng.dirichlet([2.0] * 8) * 10_000
    assert drawn.min() > 10  # so nothing has to be moved
    shares = Quantity(2.0).split(labels, 8, _rng(4))
    assert np.abs(np.array(_sizes(shares)) - drawn).max() <= 1
    # The labels of every share are like the whole's: within 5 standard deviations.
    for share in shares:
        expected = len(share) / 10
        counts = np.bincount(labels[share], minlength=10)
        assert np.abs(counts - expected).max() <= 5 * np.sqrt(expected * 0.9)


@pytest.mark.parametrize("partitioner", [Quantity(minimum=12), DirichletBalanced(minimum=12)])
def test_a_minimum_is_honoured_or_refused(partitioner: Partitioner) -> None:
    for seed in range(20):
        shares = partitioner.split(_labels(120, 3), 10, _rng(seed))
        assert _sizes(shares) == [12] * 10  # not one to spare
    with pytest.raises(PartitionError, match="10 clients with at least 12 examples each need 120"):
        partitioner.split(_labels(119, 3), 10, _rng())


def test_two_shards_of_sorted_examples_each() -> None:
    """McMahan et al.: 100 clients, 200 shards of 300 of the 60,000, so at most 2 to 4 digits."""
    labels = _labels(60_000, 10)
    shares = Shards().split(labels, 100, _rng())
    assert _sizes(shares) == [600] * 100
    counts = [np.bincount(labels[share], minlength=10) for share in shares]
    assert {int(count) for row in counts for count in row} == {0, 300, 600}  # 20 shards a digit
    (uneven,) = {tuple(sorted(_sizes(Shards(3).split(_labels(100, 7), 10, _rng()))))}
    assert sum(uneven) == 100
    assert 9 <= min(uneven) <= max(uneven) <= 12
    with pytest.raises(PartitionError, match="10 clients with at least 3 examples each need 30"):
        Shards(3).split(_labels(29, 7), 10, _rng())


@given(
    clients=st.integers(1, 12),
    each=st.integers(1, 6),
    classes=st.integers(1, 10),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_client_owns_just_so_many_classes(
    clients: int, each: int, classes: int, seed: int
) -> None:
    labels = _labels(classes * 24, classes)
    if not each <= classes <= clients * each:
        with pytest.raises(PartitionError, match=f"{clients} clients with {each} classes each"):
            Classes(each).split(labels, clients, _rng(seed))
        return
    shares = Classes(each).split(labels, clients, _rng(seed))
    owned = _classes(shares, labels)
    assert {len(own) for own in owned} == {each}
    owners = [sum(label in own for own in owned) for label in range(classes)]
    assert max(owners) - min(owners) <= 1
    for share in shares:  # an equal part of each class with its other owners
        for label, count in enumerate(np.bincount(labels[share], minlength=classes)):
            assert count == 0 or abs(count - 24 / owners[label]) < 1


def test_a_class_too_small_for_its_owners_is_named() -> None:
    labels = np.array([0] * 50 + [7] * 2)
    with pytest.raises(PartitionError, match="class 7 has 2 examples for its 3 owners: use fewer"):
        Classes(2).split(labels, 3, _rng())


def test_no_class_is_on_two_clients() -> None:
    labels = _labels(700, 7)
    shares = Disjoint().split(labels, 3, _rng())
    owned = _classes(shares, labels)
    assert sorted(label for own in owned for label in own) == list(range(7))
    assert sorted(map(len, owned)) == [2, 2, 3]
    assert _sizes(shares) == [100 * len(own) for own in owned]
    with pytest.raises(PartitionError, match="8 clients with classes of their own need 8 classes"):
        Disjoint().split(labels, 8, _rng())


@pytest.mark.parametrize("partitioner", [Classes, Shards])
def test_less_than_one_for_each_client_is_refused(partitioner: type[Classes | Shards]) -> None:
    with pytest.raises(ValueError, match="per_client: expected a whole number >= 1, found 0"):
        partitioner(per_client=0)


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8), minimum=st.integers(1, 12))
def test_topping_up_asks_the_largest_of_each_moment(sizes: list[int], minimum: int) -> None:
    """By the plainest search there is."""
    if sum(sizes) < minimum * len(sizes):
        return
    ends = np.cumsum(sizes)
    clients = np.split(np.arange(ends[-1]), ends[:-1])
    plain = [client.tolist() for client in clients]
    for client in plain:
        while len(client) < minimum:
            client.append(max(plain, key=len).pop())
    assert [client.tolist() for client in top_up(clients, minimum)] == plain


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    clients=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_dealing_many_decks_is_splitting_each(sizes: list[int], clients: int, seed: int) -> None:
    rng = _rng(seed)
    decks = [rng.permutation(100)[:size] for size in sizes]
    cuts = [np.sort(rng.integers(0, size + 1, clients - 1)) for size in sizes]
    parts = [np.split(deck, cut) for deck, cut in zip(decks, cuts, strict=True)]
    expected = [np.concatenate([part[c] for part in parts]).tolist() for c in range(clients)]
    assert [share.tolist() for share in dealt(decks, cuts, clients)] == expected


@pytest.mark.parametrize(
    ("partitioner", "seed", "digest"),
    [
        (Dirichlet(minimum=1), 1, "bbc3c2c93ce8"),
        (Dirichlet(0.05), 0, "fb42a189bc03"),
        (DirichletBalanced(), 2, "023830ea4dd5"),
        (DirichletBalanced(0.01), 3, "fc51ced47c1a"),
    ],
)
def test_draws_of_a_seed_stay_as_they_were(
    partitioner: Partitioner, seed: int, digest: str
) -> None:
    """As they were when each class was split by itself."""
    labels = _rng(seed).integers(0, 7, 3000)
    shares = partitioner.split(labels, 23, _rng(seed))
    found = hashlib.sha256(b"".join(share.astype("<i8").tobytes() + b"|" for share in shares))
    assert found.hexdigest()[:12] == digest
