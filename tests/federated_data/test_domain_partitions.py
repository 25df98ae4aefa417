"""Partitioners that read more than labels: domains, superclasses, natural clients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.partition.base import Examples, Indices, PartitionError
from fl2ora.federated_data.partition.coarse_dirichlet import CoarseDirichlet
from fl2ora.federated_data.partition.dirichlet import Dirichlet
from fl2ora.federated_data.partition.domain_dirichlet import DomainDirichlet
from fl2ora.federated_data.partition.domains import Domains
from fl2ora.federated_data.partition.natural import Natural
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.federated_data.shares import share_out


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _whole(shares: list[Indices]) -> list[int]:
    return sorted(np.concatenate(shares).tolist())


NUMBERS = np.arange(240, dtype=np.int64)
EXAMPLES = Examples(NUMBERS % 6, NUMBERS // 80, NUMBERS % 6 // 2, NUMBERS % 7)


def test_a_domain_is_a_client() -> None:
    shares = Domains().split_examples(EXAMPLES, 3, _rng())
    assert [share.tolist() for share in shares] == [
        list(range(80)), list(range(80, 160)), list(range(160, 240)),
    ]  # fmt: skip
    six = Domains().split_examples(EXAMPLES, 6, _rng())
    assert [len(share) for share in six] == [40] * 6
    assert [sorted(np.concatenate(six[i : i + 2]).tolist()) for i in (0, 2, 4)] == [
        share.tolist() for share in shares
    ]


@pytest.mark.parametrize(("clients", "words"), [(4, "that divides 4, the data has 3"), (2, "2")])
def test_domains_that_do_not_divide_the_clients_are_refused(clients: int, words: str) -> None:
    with pytest.raises(PartitionError, match=words):
        Domains().split_examples(EXAMPLES, clients, _rng())


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    clients=st.integers(1, 12),
    minimum=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_every_client_has_one_domain_and_its_minimum_or_the_reason_is_told(
    sizes: list[int], clients: int, minimum: int, seed: int
) -> None:
    domains = np.repeat(np.arange(len(sizes)), sizes)
    examples = Examples(_rng(seed).integers(0, 4, len(domains)), domains)
    try:
        shares = DomainDirichlet(0.3, minimum).split_examples(examples, clients, _rng(seed))
    except PartitionError:
        each = -(-clients // len(sizes))
        assert clients < len(sizes) or min(sizes) < each * minimum
        return
    assert _whole(shares) == list(range(len(domains)))
    owned = [set(domains[share].tolist()) for share in shares]
    assert all(len(own) == 1 for own in owned)
    assert min(map(len, shares)) >= minimum
    counts = np.bincount([own.pop() for own in owned], minlength=len(sizes))
    assert counts.max() - counts.min() <= 1
    assert all(counts[i] >= counts[j] for i, a in enumerate(sizes) for j, b in enumerate(sizes)
               if a > b)  # fmt: skip


def test_labels_are_skewed_within_a_domain() -> None:
    skewed, even = (
        DomainDirichlet(beta, 1).split_examples(EXAMPLES, 6, _rng(2)) for beta in (0.05, 1e9)
    )
    counts = [np.bincount(EXAMPLES.labels[share], minlength=6) for share in even]
    assert np.ptp(counts) <= 2
    assert max(np.bincount(EXAMPLES.labels[share], minlength=6).max() for share in skewed) >= 12


def test_superclasses_are_shared_as_dirichlet_shares_classes() -> None:
    assert EXAMPLES.superclasses is not None
    shares = CoarseDirichlet(0.1, 1).split_examples(EXAMPLES, 4, _rng(3))
    expected = Dirichlet(0.1, 1).split(EXAMPLES.superclasses, 4, _rng(3))
    assert [a.tolist() for a in shares] == [b.tolist() for b in expected]
    fine = CoarseDirichlet(0.1, 1).split_examples(replace(EXAMPLES, superclasses=None), 4, _rng(3))
    plain = Dirichlet(0.1, 1).split(EXAMPLES.labels, 4, _rng(3))
    assert [a.tolist() for a in fine] == [b.tolist() for b in plain]


def test_natural_clients_stay_whole() -> None:
    assert EXAMPLES.clients is not None
    seven = Natural().split_examples(EXAMPLES, 7, _rng())
    assert [share.tolist() for share in seven] == [list(range(i, 240, 7)) for i in range(7)]
    three = Natural().split_examples(EXAMPLES, 3, _rng())
    owned = [set(EXAMPLES.clients[share].tolist()) for share in three]
    assert sorted(number for own in owned for number in own) == list(range(7))
    assert sorted(map(len, owned)) == [2, 2, 3]
    assert _whole(three) == list(range(240))
    with pytest.raises(PartitionError, match=r"8 clients need as many natural ones, .* has 7"):
        Natural().split_examples(EXAMPLES, 8, _rng())
    with pytest.raises(PartitionError, match="name no clients of their own"):
        Natural().split(EXAMPLES.labels, 2, _rng())


def _federation(coarse: tuple[int, ...] | None = None) -> Federation:
    numbers = torch.arange(40)
    pixels = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    owners = [f"p{number // 10}" for number in range(40)]
    train = LabelledImages(pixels, numbers % 4, numbers // 20, owners)
    return Federation(train, (), tuple("abcd"), ("a {}",), ("x", "y"), coarse_of=coarse)


def test_a_run_s_shares_follow_what_its_images_are() -> None:
    def rows(partition: str, clients: int, coarse: tuple[int, ...] | None = None) -> list[set[int]]:
        shares = share_out(_federation(coarse), partition, clients, 0)
        return [set(share.images[:][:, 0, 0, 0].tolist()) for share in shares]

    assert rows("domains", 2) == [set(range(20)), set(range(20, 40))]
    assert rows("natural", 4) == [set(range(i, i + 10)) for i in range(0, 40, 10)]
    tiny = rows("coarse_dirichlet(beta=1e-300, minimum=1)", 2, (0, 0, 1, 1))
    assert sorted(map(len, tiny)) in ([20, 20], [1, 39])  # each superclass has one owner
    with pytest.raises(UserError, match="partition 'natural': 5 clients need as many"):
        rows("natural", 5)
