from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.lora._ranks import RankedLoRAStrategy, cut_to_rank, parse_ranks
from fl2ora.strategies.lora.fedex_lora import FedExLoRA
from fl2ora.strategies.lora.flexlora import FlexLoRA
from fl2ora.strategies.lora.flora import FLoRA
from fl2ora.strategies.lora.hetlora import HetLoRA
from fl2ora.strategies.lora.raflora import RaFLoRA
from fl2ora.strategies.updates import ClientUpdate
from lora_factors import RESIDUAL_A, RESIDUAL_B, A, B, M, dense, drawn, pair
from planned import begun, combine

START = drawn(1, rank=4)[0].adapter


def rank_sent(strategy: RankedLoRAStrategy, client: str) -> int:
    sent = strategy.plan(1, START, [client]).start_of(client)
    assert {name: t.shape for name, t in sent.items()} == {n: t.shape for n, t in START.items()}
    rows, columns = sent[A].any(dim=1), sent[B].any(dim=0)
    assert torch.equal(rows, columns)
    rank = int(rows.sum())
    assert torch.equal(sent[A][:rank], START[A][:rank])
    assert torch.equal(sent[B][:, :rank], START[B][:, :rank])
    return rank


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ((), {})),
        ("4,2,1", ((4, 2, 1), {})),
        (" 8 , 2,2 ", ((8, 2, 2), {})),
        ("site-a:4, site-b:2", ((), {"site-a": 4, "site-b": 2})),
        ("host:80:3", ((), {"host:80": 3})),
    ],
)
def test_ranks_are_read(text: str, expected: object) -> None:
    assert parse_ranks(text) == expected


@pytest.mark.parametrize(
    "text", ["0", "-1", "x", "1.5", "4,", "a:2,3", "a:0", ":2", "a:1,a:2", "a:", ","]
)
def test_ranks_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^ranks: expected ranks of at least 1"):
        parse_ranks(text)


def test_without_ranks_everyone_gets_the_adapter_itself() -> None:
    assert begun(FlexLoRA(), "a", START).plan(1, START, "a").start_of("a") is START


def test_ranks_go_round_by_the_order_of_all_clients() -> None:
    strategy = begun(FlexLoRA("4,2,1"), "xbay", START)
    assert [rank_sent(strategy, client) for client in "xbay"] == [4, 2, 1, 4]


def test_single_rank_applies_to_every_client() -> None:
    strategy = begun(FlexLoRA("2"), "ab", START)
    assert [rank_sent(strategy, client) for client in "ab"] == [2, 2]


def test_named_ranks_and_those_of_nodes() -> None:
    sites = [f"site-{key}" for key in "abc"]
    strategy = begun(HetLoRA("site-a:3, site-b:2"), sites, START)
    assert [rank_sent(strategy, site) for site in sites] == [3, 2, 4]
    begun(strategy, sites, START, {"site-b": 1, "site-c": 2})
    assert [rank_sent(strategy, site) for site in sites] == [3, 1, 2]


def test_ranks_of_clients_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UserError, match=r"ranks: .*the run's 2 clients, such as 'a', found site-z"):
        begun(FlexLoRA("a:2, site-z:1"), "ab", START)


def test_start_of_a_client_is_deterministic() -> None:
    plan = begun(FlexLoRA("2,3"), "abc", START).plan(1, START, "abc")
    assert plan.start_of("a") is plan.start_of("a")
    assert plan.start_of("a") is plan.start_of("c")
    assert plan.start_of("a") is not plan.start_of("b")


@pytest.mark.parametrize(
    ("spec", "nodes", "message"),
    [
        ("flexlora(ranks='4,5')", {}, "'flexlora': rank: expected 1 to 4, the rank .* found 5"),
        ("hetlora(ranks='a:9')", {}, "'hetlora': rank of client 'a': expected 1 to 4.* found 9"),
        ("flexlora", {"b": 0}, "rank of client 'b': expected 1 to 4.* found 0"),
    ],
)
def test_ranks_above_the_method_s_are_refused_before_training(
    spec: str, nodes: dict[str, int], message: str
) -> None:
    strategy = load(spec, Strategy)
    assert isinstance(strategy, RankedLoRAStrategy)
    with pytest.raises(UserError, match=message):
        begun(strategy, "ab", START, nodes)


def test_cutting_to_a_rank_leaves_the_residual() -> None:
    carried = {f"{M}.residual_A": torch.ones(3, 5), f"{M}.residual_B": torch.ones(7, 3)}
    cut = cut_to_rank({**START, **carried}, 1)
    assert all(torch.equal(cut[name], t) for name, t in carried.items())
    assert list(cut) == sorted(cut)


def test_a_client_of_full_rank_gets_equal_values() -> None:
    cut = cut_to_rank(START, 4)
    assert all(torch.equal(cut[name], START[name]) for name in START)


def test_five_strategies_take_ranks() -> None:
    carrying = {**START, RESIDUAL_A: torch.zeros(2, 5), RESIDUAL_B: torch.zeros(7, 2)}
    for make in (FlexLoRA, HetLoRA, RaFLoRA):
        assert rank_sent(begun(make("2"), "0", START), "0") == 2
    for carries in (FLoRA, FedExLoRA):
        assert rank_sent(begun(carries("2"), "0", carrying), "0") == 2


def test_hetlora_averages_the_zeros_of_low_ranks() -> None:
    """Ranks 1 and 2 of norms 1 and 3: z = 1/4, 3/4, and the second row is diluted by z alone."""
    low = pair([[1, 0], [0, 0]], [[1, 0], [0, 0]])
    high = pair([[0, 0], [0, 3]], [[0, 0], [0, 1]])
    members = drawn(2)
    members = [type(m)(m.client, a, 1) for m, a in zip(members, (low, high), strict=True)]
    result = combine(HetLoRA(), low, members)
    assert result[A].tolist() == [[0.25, 0], [0, 0.75]]
    assert result[B].tolist() == [[0.25, 0], [0, 2.25]]


@pytest.mark.parametrize("make", [FedExLoRA, FLoRA])
def test_idle_clients_of_any_rank_change_nothing(make: Callable[[str], RankedLoRAStrategy]) -> None:
    """What a client of rank 1 was not sent is no movement of it."""
    start = {**START, RESIDUAL_A: torch.zeros(5, 5), RESIDUAL_B: torch.zeros(7, 5)}
    strategy = begun(make("4,1"), "ab", start)
    plan = strategy.plan(1, start, "ab")
    idle = [ClientUpdate(client, dict(plan.start_of(client)), 5) for client in "ab"]
    np.testing.assert_allclose(dense(strategy.aggregate(plan, idle)), dense(start), atol=1e-5)


@pytest.mark.parametrize("make", [FedExLoRA, FLoRA])
def test_ranks_of_their_own_add_the_mean_of_what_clients_moved(
    make: Callable[[str], RankedLoRAStrategy],
) -> None:
    start = {**START, RESIDUAL_A: torch.zeros(5, 5), RESIDUAL_B: torch.zeros(7, 5)}
    strategy = begun(make("4,1,2"), "abc", start)
    plan = strategy.plan(1, start, "abc")
    moved, expected = [], dense(start)
    for client, rank, size, factors in zip("abc", (4, 1, 2), (1, 2, 5), drawn(3, 4), strict=True):
        trained = {**start, **cut_to_rank(factors.adapter, rank)}
        moved.append(ClientUpdate(client, trained, size))
        expected += size / 8 * (dense(trained) - dense(plan.start_of(client)))
    result = strategy.aggregate(plan, moved)
    np.testing.assert_allclose(dense(result), expected, atol=1e-5)


def test_noise_beyond_a_clients_rank_is_not_counted() -> None:
    strategy = begun(FlexLoRA("4,1"), "ab", START)
    plan = strategy.plan(1, START, "ab")
    quiet = [ClientUpdate(client, dict(plan.start_of(client)), 5) for client in "ab"]
    noise = torch.tensor([[0.0], [3.0], [3.0], [3.0]]).expand_as(START[A])
    adapter = {**quiet[1].adapter, A: quiet[1].adapter[A] + noise}
    noisy = [quiet[0], replace(quiet[1], adapter=adapter)]
    left, right = (strategy.aggregate(plan, sent) for sent in (quiet, noisy))
    assert all(torch.equal(left[name], right[name]) for name in START)


def test_raflora_averages_each_rank_over_the_clients_that_have_it() -> None:
    strategy = begun(RaFLoRA("4,1,2"), "abc", START)
    plan = strategy.plan(1, START, "abc")
    expected = np.zeros((7, 5))
    trained = [
        cut_to_rank(member.adapter, r) for member, r in zip(drawn(3, 4), (4, 1, 2), strict=True)
    ]
    sizes, having = (1, 2, 5), {0: (0, 1, 2), 1: (0, 2), 2: (0,), 3: (0,)}
    for row, clients in having.items():
        for k in clients:
            share = sizes[k] / sum(sizes[each] for each in clients)
            b, a = trained[k][B][:, row].double().numpy(), trained[k][A][row].double().numpy()
            expected += share * np.outer(b, a)
    moved = [ClientUpdate(c, t, n) for c, t, n in zip("abc", trained, sizes, strict=True)]
    u, s, v = np.linalg.svd(expected)
    result = strategy.aggregate(plan, moved)
    np.testing.assert_allclose(dense(result), (u[:, :4] * s[:4]) @ v[:4], atol=1e-5)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_clients_of_low_rank_that_do_not_move_take_nothing_from_raflora(
    first: int, second: int, seed: int
) -> None:
    start = drawn(1, 4, seed=seed)[0].adapter
    strategy = begun(RaFLoRA(f"{first},{second}"), "ab", start)
    plan = strategy.plan(1, start, "ab")
    idle = [ClientUpdate(client, dict(plan.start_of(client)), 5) for client in "ab"]
    np.testing.assert_allclose(dense(strategy.aggregate(plan, idle)), dense(start), atol=1e-5)


def test_raflora_with_equal_ranks_is_flexlora() -> None:
    members = drawn(3, 4)
    flex, ra = (combine(make(), START, members) for make in (FlexLoRA, RaFLoRA))
    for name in START:
        torch.testing.assert_close(ra[name], flex[name], atol=1e-6, rtol=0)
