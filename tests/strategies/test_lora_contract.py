"""LoRA strategies as plug-ins: found by name, refusing what is not LoRA, and what they send."""

from __future__ import annotations

import pytest
import torch

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available, load
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.client_rule import ClientRule, LocalStart
from fl2ora.strategies.contract import check_strategy
from fl2ora.strategies.lora._lora_strategy import LoRAStrategy
from fl2ora.strategies.lora.fedsa_lora import FedSALoRARule
from fl2ora.strategies.lora.flora import FLoRA
from fl2ora.strategies.lora.lora_one_factor import TrainOneFactor
from fl2ora.strategies.lora.rolora import RoLoRA
from lora_factors import RESIDUAL_A, RESIDUAL_B, A, B, drawn, example_one
from planned import begun, combine

SPECS = [
    "fedit", "ffa_lora", "rolora", "fedsa_lora", "fedsvd", "flexlora", "hetlora", "lora_fair",
    "fedex_lora", "flora", "flora_na", "raflora",
]  # fmt: skip
RANKS = "0:2, 1:1, 2:2, 3:1"
CARRYING = {"fedex_lora", "flora"}
START = drawn(1)[0].adapter
ROOM = {RESIDUAL_A: torch.zeros(2, 5), RESIDUAL_B: torch.zeros(7, 2)}


def rule_of(strategy: Strategy, server_round: int, adapter: Adapter) -> str:
    return begun(strategy, "ab", adapter).plan(server_round, adapter, "ab").rule


def test_every_file_is_a_strategy_by_its_name_and_helpers_are_none() -> None:
    names = available(Strategy)
    assert set(SPECS) <= set(names)
    others = {"lora_strategy", "lora_ranks", "lora_residuals", "lora_one_factor"}
    assert not others & set(names)


@pytest.mark.parametrize(
    ("spec", "averages"),
    [
        ("fedit", True),
        ("fedit(weighting='uniform')", True),
        ("ffa_lora", True),
        ("rolora", True),
        ("fedsa_lora", True),
        ("fedsa_lora(share_b=False)", False),
        ("fedsvd", False),
        ("flexlora", False),
        (f"flexlora(ranks='{RANKS}', row_norm=0.5)", False),
        ("raflora", False),
        (f"raflora(ranks='{RANKS}', row_norm=0.5)", False),
        ("hetlora", True),
        ("hetlora(ranks='1')", False),
        ("lora_fair", True),
        ("lora_fair(ridge=0, weighting='uniform')", True),
        ("fedex_lora", False),  # a client's own residual is not looked at
        ("flora", False),
        ("flora_na", True),
        (f"flora(ranks='{RANKS}', seed=3)", False),
        ("attacked(inner='rolora', clients='2')", True),
        ("attacked(inner='flexlora', clients='2')", False),
    ],
)
def test_every_lora_strategy_keeps_the_contract(spec: str, averages: bool) -> None:
    names_clients = RANKS in spec or spec.startswith("attacked")
    check_strategy(spec, averages=averages, alike=not names_clients, start=start_for(spec))


def start_for(spec: str) -> Adapter:
    return {**START, **ROOM} if spec.partition("(")[0] in CARRYING else START


@pytest.mark.parametrize("spec", SPECS)
def test_lora_is_accepted_and_anything_else_refused(spec: str) -> None:
    strategy = load(spec, Strategy)
    assert isinstance(strategy, LoRAStrategy)
    assert strategy.spec_name == spec
    begun(strategy, "ab", start_for(spec))
    for adapter, found in (
        ({"context": torch.ones(4, 8)}, "found context"),
        ({}, "found nothing"),
        ({**START, "scale": torch.ones(1)}, "found scale"),
        ({A: START[A]}, "found .*lora_A.weight"),
        ({f"block.{i}.bias": torch.ones(1) for i in range(5)}, r"0.bias, .*2.bias, \.\.\.$"),
    ):
        with pytest.raises(UserError, match=rf"^strategy '{spec}' combines LoRA.*{found}"):
            begun(strategy, "ab", adapter)


@pytest.mark.parametrize("spec", sorted(CARRYING))
def test_strategies_that_move_a_residual_need_one(spec: str) -> None:
    strategy = load(spec, Strategy)
    with pytest.raises(UserError, match=rf"'{spec}'.*lora_residual\(residual_rank=N\).*N = 5 is"):
        begun(strategy, "ab", START)


@pytest.mark.parametrize("spec", [*sorted(set(SPECS) - CARRYING), "fedavg", "scaffold"])
def test_strategies_that_move_no_residual_refuse_one(spec: str) -> None:
    strategy = load(spec, Strategy)
    with pytest.raises(UserError, match=rf"^strategy '{spec}' does not move the residual"):
        begun(strategy, "ab", {**START, **ROOM})


@pytest.mark.parametrize("spec", SPECS)
def test_a_client_finds_the_rule(spec: str) -> None:
    rule = rule_of(load(spec, Strategy), 1, start_for(spec))
    if rule:
        assert isinstance(load(rule, ClientRule), (TrainOneFactor, FedSALoRARule))
    assert bool(rule) == (spec in {"ffa_lora", "rolora", "fedsvd", "fedsa_lora"})


def test_the_factors_take_turns() -> None:
    rules = [rule_of(RoLoRA(), server_round, START) for server_round in (1, 2, 3, 4)]
    assert rules == [f"lora_one_factor(factor='{factor}')" for factor in "BABA"]


def test_b_takes_the_turn_of_a_while_all_b_are_zero() -> None:
    dead = {**START, B: torch.zeros_like(START[B])}
    tuned = {name: torch.nn.Parameter(tensor) for name, tensor in dead.items()}
    for parameter in tuned.values():
        parameter.grad = torch.ones_like(parameter)
    rule = TrainOneFactor("A")
    rule.begin(LocalStart(tuned, dead))
    rule.after_backward()
    assert tuned[A].grad is None
    assert tuned[B].grad is not None
    moved = [type(m)(m.client, {**dead, B: m.adapter[B]}, 1) for m in drawn(3)]
    result = combine(RoLoRA(), dead, moved, 2)
    assert bool(result[B].any())
    assert torch.equal(result[A], dead[A])


def test_truncated_residual_is_reported_as_a_metric() -> None:
    room = {RESIDUAL_A: torch.zeros(1, 2), RESIDUAL_B: torch.zeros(2, 1)}
    strategy = FLoRA()
    combine(strategy, {**example_one()[0].adapter, **room}, example_one())
    # diag(.5, .5) in rank 1 keeps one of two equal singular values.
    assert strategy.metrics() == {"lora_residual_truncation": pytest.approx(0.5**0.5)}


@pytest.mark.parametrize("factor", ["C", "", "ab"])
def test_a_factor_that_does_not_exist_is_refused(factor: str) -> None:
    with pytest.raises(UserError, match=f"factor: expected 'A' or 'B', found '{factor}'"):
        load(f"lora_one_factor(factor={factor!r})", ClientRule)


def test_client_without_lora_factors_is_refused() -> None:
    start = LocalStart(tuned={"context": torch.nn.Parameter(torch.ones(1))}, received={})
    with pytest.raises(UserError, match="found none among what is tuned"):
        TrainOneFactor("B").begin(start)
