from __future__ import annotations

import pytest
import torch

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.lora._ranks import RankedLoraStrategy, cut_to_rank, parse_ranks
from fl2ora.strategies.lora.fedex_lora import FedExLora
from fl2ora.strategies.lora.flexlora import FlexLora
from fl2ora.strategies.lora.flora import Flora
from fl2ora.strategies.lora.hetlora import HetLora
from lora_factors import A, B, M, drawn, pair

START = drawn(1, rank=4)[0].adapter


def rank_sent(strategy: RankedLoraStrategy, client: str) -> int:
    sent = strategy.outgoing(client, START)
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
    assert FlexLora().outgoing("a", START) is START


def test_ranks_go_round_by_the_order_of_all_clients() -> None:
    strategy = FlexLora("4,2,1")
    strategy.clients = ("x", "b", "a", "y")
    assert [rank_sent(strategy, client) for client in "xbay"] == [4, 2, 1, 4]


def test_shares_have_their_place_in_their_name() -> None:
    strategy = HetLora("3,1")
    assert [rank_sent(strategy, str(client)) for client in (0, 1, 2, 13)] == [3, 1, 3, 1]


def test_a_place_that_is_not_known_is_an_error() -> None:
    with pytest.raises(UserError, match=r"ranks: no place .* client 'site-a'.*site-a:2"):
        FlexLora("4,2").outgoing("site-a", START)


def test_one_rank_for_all_needs_no_place() -> None:
    assert rank_sent(FlexLora("2"), "site-a") == 2


def test_named_ranks_and_those_of_nodes() -> None:
    strategy = Flora("site-a:3, site-b:2")
    assert [rank_sent(strategy, f"site-{key}") for key in "abc"] == [3, 2, 4]
    strategy.client_ranks = {"site-b": 1, "site-c": 2}
    assert [rank_sent(strategy, f"site-{key}") for key in "abc"] == [3, 1, 2]


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
    assert isinstance(strategy, RankedLoraStrategy)
    strategy.client_ranks = nodes
    with pytest.raises(UserError, match=message):
        strategy.check(START)


def test_cutting_leaves_what_is_carried() -> None:
    carried = {f"{M}.residual_A": torch.ones(3, 5), f"{M}.residual_B": torch.ones(7, 3)}
    cut = cut_to_rank({**START, **carried}, 1)
    assert all(torch.equal(cut[name], t) for name, t in carried.items())
    assert list(cut) == sorted(cut)


def test_a_client_of_full_rank_gets_equal_values() -> None:
    cut = cut_to_rank(START, 4)
    assert all(torch.equal(cut[name], START[name]) for name in START)


def test_all_that_may_differ_take_ranks() -> None:
    for make in (FlexLora, HetLora, Flora, FedExLora):
        assert rank_sent(make("2"), "0") == 2


def test_padding_is_what_hetlora_averages() -> None:
    """Ranks 1 and 2 of norms 1 and 3: z = 1/4, 3/4, and the second row is diluted by z alone."""
    low = pair([[1, 0], [0, 0]], [[1, 0], [0, 0]])
    high = pair([[0, 0], [0, 3]], [[0, 0], [0, 1]])
    members = drawn(2)
    members = [type(m)(m.client, a, 1) for m, a in zip(members, (low, high), strict=True)]
    result = HetLora().aggregate(1, low, members)
    assert result[A].tolist() == [[0.25, 0], [0, 0.75]]
    assert result[B].tolist() == [[0.25, 0], [0, 2.25]]
