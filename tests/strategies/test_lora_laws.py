"""What holds for any factors: exactness, optimality, reductions, independence of order."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.lora._lora_strategy import LoRAStrategy
from fl2ora.strategies.lora._residuals import ResidualLoRAStrategy
from fl2ora.strategies.lora.fedex_lora import FedExLoRA
from fl2ora.strategies.lora.fedit import FedIT
from fl2ora.strategies.lora.fedsa_lora import FedSALoRA
from fl2ora.strategies.lora.fedsvd import FedSVD
from fl2ora.strategies.lora.ffa_lora import FFALoRA
from fl2ora.strategies.lora.flexlora import FlexLoRA
from fl2ora.strategies.lora.flora import FLoRA
from fl2ora.strategies.lora.flora_na import FLoRANA
from fl2ora.strategies.lora.hetlora import HetLoRA
from fl2ora.strategies.lora.lora_fair import LoRAFAIR
from fl2ora.strategies.lora.rolora import RoLoRA
from fl2ora.strategies.updates import ClientUpdate
from lora_factors import RESIDUAL_A, RESIDUAL_B, A, B, M, dense, drawn, mean_product, updates
from planned import combine

SHAPE = (7, 5)
seeds = st.integers(0, 10_000)
clients = st.integers(1, 6)
ranks = st.integers(1, 4)
Make = Callable[[], LoRAStrategy]

STACKING: list[Make] = [FlexLoRA, LoRAFAIR, HetLoRA, FedExLoRA, FLoRA, FLoRANA]
ALL: list[Make] = [FedIT, FFALoRA, RoLoRA, FedSALoRA, FedSVD, *STACKING]


def start_of(rounds: list[ClientUpdate], residual: int = 0) -> Adapter:
    start = {name: torch.zeros_like(t) for name, t in rounds[0].adapter.items()}
    start[A] = rounds[0].adapter[A].clone()
    if residual:
        start[RESIDUAL_A] = torch.zeros(residual, SHAPE[1])
        start[RESIDUAL_B] = torch.zeros(SHAPE[0], residual)
    return start


@given(clients, ranks, seeds)
@settings(max_examples=40)
def test_with_a_common_a_the_mean_of_b_is_exact(count: int, rank: int, seed: int) -> None:
    members = drawn(count, rank, SHAPE, seed, same_a=True)
    exact = mean_product(members)
    for strategy in (FFALoRA(), FedSVD(), FedSVD(row_norm=0.5), FedIT(), LoRAFAIR(), RoLoRA()):
        result = combine(strategy, start_of(members), members)
        np.testing.assert_allclose(dense(result), exact, atol=1e-6 * max(1, np.abs(exact).max()))


@given(clients, ranks, seeds)
@settings(max_examples=40)
def test_with_a_common_b_the_mean_of_a_is_exact(count: int, rank: int, seed: int) -> None:
    members = drawn(count, rank, SHAPE, seed)
    common = members[0].adapter[B]
    members = [
        ClientUpdate(m.client, {**m.adapter, B: common.clone()}, m.num_examples) for m in members
    ]
    start = {**start_of(members), B: common.clone()}
    result = combine(RoLoRA(), start, members, 2)
    exact = mean_product(members)
    np.testing.assert_allclose(dense(result), exact, atol=1e-6 * max(1, np.abs(exact).max()))
    assert torch.equal(result[B], common)


@pytest.mark.parametrize("make", [FedExLoRA, FLoRA])
@given(clients, ranks, seeds)
@settings(max_examples=25)
def test_a_full_residual_is_exact_round_after_round(
    make: Callable[[], ResidualLoRAStrategy], count: int, rank: int, seed: int
) -> None:
    strategy = make()
    first, second = (drawn(count, rank, SHAPE, seed + i) for i in range(2))
    current = combine(strategy, start_of(first, residual=5), first)
    np.testing.assert_allclose(dense(current), mean_product(first), atol=2e-5)
    carried = {name: current[name] for name in (RESIDUAL_A, RESIDUAL_B)}
    second = [ClientUpdate(m.client, {**m.adapter, **carried}, m.num_examples) for m in second]
    after = combine(strategy, current, second, 2)
    np.testing.assert_allclose(dense(after), mean_product(second), atol=2e-5)
    assert strategy.metrics() == {"lora_residual_truncation": 0.0}


@pytest.mark.parametrize("count", [1, 3])
def test_where_nothing_is_lost_the_residual_stays(count: int) -> None:
    """Also where averaging equal factors leaves rounding errors."""
    one = drawn(1, 2, SHAPE, 11)[0].adapter
    start = {**start_of(drawn(1), residual=2), RESIDUAL_A: torch.full((2, 5), 0.1)}
    start[RESIDUAL_B] = torch.full((7, 2), 0.3)
    strategy = FedExLoRA()
    result = combine(strategy, start, updates([{**start, **one}] * count, [3, 7, 11][:count]))
    assert all(torch.equal(result[name], start[name]) for name in (RESIDUAL_A, RESIDUAL_B))
    assert strategy.metrics() == {"lora_residual_truncation": 0.0}


@given(st.integers(2, 5), seeds)
@settings(max_examples=25)
def test_a_residual_that_does_not_fit_is_the_nearest_and_says_what_it_lost(
    count: int, seed: int
) -> None:
    strategy = FLoRA()
    members = drawn(count, 2, SHAPE, seed)
    result = combine(strategy, start_of(members, residual=2), members)
    u, s, v = np.linalg.svd(mean_product(members))
    np.testing.assert_allclose(dense(result), (u[:, :2] * s[:2]) @ v[:2], atol=1e-4)
    lost = np.linalg.norm(s[2:]) / np.linalg.norm(s)
    assert strategy.metrics()["lora_residual_truncation"] == pytest.approx(lost, rel=1e-5)


@given(clients, ranks, seeds)
@settings(max_examples=40)
def test_flexlora_is_the_dense_svd(count: int, rank: int, seed: int) -> None:
    members = drawn(count, rank, SHAPE, seed)
    u, s, v = np.linalg.svd(mean_product(members), full_matrices=False)
    result = combine(FlexLoRA(), start_of(members), members)
    np.testing.assert_allclose(dense(result), (u[:, :rank] * s[:rank]) @ v[:rank], atol=1e-4)
    # The first rows and columns are the best of every lower rank.
    lower = result[B][:, :1].numpy() @ result[A][:1].numpy()
    np.testing.assert_allclose(lower, s[0] * np.outer(u[:, 0], v[0]), atol=1e-4)


@given(clients, ranks, seeds)
@settings(max_examples=40)
def test_no_strategy_of_equal_rank_is_nearer_to_the_mean_than_flexlora(
    count: int, rank: int, seed: int
) -> None:
    members = drawn(count, rank, SHAPE, seed)
    exact = mean_product(members)

    def distance(strategy: LoRAStrategy) -> float:
        result = combine(strategy, start_of(members), members)
        return float(np.linalg.norm(dense(result) - exact))

    best, apart = distance(FlexLoRA()), distance(FedIT())
    corrected, loosely = distance(LoRAFAIR(ridge=0.0)), distance(LoRAFAIR(ridge=0.5))
    slack = 1e-5 * float(np.linalg.norm(exact))
    weighed, longer = distance(FLoRANA(steps=2)), distance(FLoRANA(steps=10))
    assert best <= longer + slack
    assert longer <= weighed + slack
    assert weighed <= apart + slack
    assert best <= corrected + slack
    assert corrected <= loosely + slack
    assert loosely <= apart + slack


@pytest.mark.parametrize("make", ALL)
@given(seeds, st.randoms())
@settings(max_examples=10)
def test_the_order_of_arrival_does_not_change_a_bit(make: Make, seed: int, rng: Random) -> None:
    members = drawn(5, 2, SHAPE, seed)
    start = start_of(members, residual=3)
    members = [ClientUpdate(m.client, {**start, **m.adapter}, m.num_examples) for m in members]
    shuffled = list(members)
    rng.shuffle(shuffled)
    one, two = (combine(make(), start, order) for order in (members, shuffled))
    assert one.keys() == two.keys() == start.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@given(clients, ranks, seeds)
@settings(max_examples=20)
def test_fedit_is_fedavg_on_factors(count: int, rank: int, seed: int) -> None:
    members = drawn(count, rank, SHAPE, seed)
    for weighting in ("examples", "uniform"):
        theirs = combine(FedAvg(weighting), {}, members)
        ours = combine(FedIT(weighting), {}, members)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "make", [FlexLoRA, LoRAFAIR, FedExLoRA, HetLoRA, FLoRANA, FedIT, FedSALoRA]
)
def test_one_client_alone_is_the_next_global_update(make: Make) -> None:
    members = drawn(1, 2, SHAPE, 4)
    result = combine(make(), start_of(members, residual=3), members)
    np.testing.assert_allclose(dense(result), mean_product(members), atol=1e-5)


@pytest.mark.parametrize(
    "make", [FlexLoRA, LoRAFAIR, FedExLoRA, FLoRA, FLoRANA]
)  # HetLoRA weighs by all
def test_every_pair_is_treated_on_its_own(make: Make) -> None:
    names = (M, M.replace("layers.0", "layers.1"))
    members = drawn(3, 2, SHAPE, 5, modules=names)
    start = start_of(members, residual=5)
    for kind, shape in (("A", (5, SHAPE[1])), ("B", (SHAPE[0], 5))):
        start[f"{names[1]}.residual_{kind}"] = torch.zeros(shape)
    both = combine(make(), start, members)
    alone = [
        ClientUpdate(m.client, {n: t for n, t in m.adapter.items() if n.startswith(names[0])}, n)
        for m in members
        for n in [m.num_examples]
    ]
    result = combine(make(), start, alone)
    assert torch.equal(both[A], result[A])
    assert torch.equal(both[B], result[B])


def test_flora_draws_for_every_pair_apart() -> None:
    names = (M, M.replace("layers.0", "layers.1"))
    members = drawn(2, 2, SHAPE, 5, modules=names)
    start = start_of(members, residual=4)
    start |= {name.replace("layers.0", "layers.1"): t for name, t in start.items()}
    result = combine(FLoRA(), start, members)
    assert not torch.equal(result[A], result[A.replace("layers.0", "layers.1")])


def test_uniform_weights_ignore_the_numbers_of_examples() -> None:
    members = drawn(3, 2, SHAPE, 6)
    equal = updates([m.adapter for m in members], [1, 1, 1])
    for make in (FlexLoRA, LoRAFAIR, FedIT):
        one = combine(make(weighting="uniform"), start_of(members), members)
        two = combine(make(), start_of(members), equal)
        torch.testing.assert_close(one[B], two[B])


def test_flora_starts_anew_every_round() -> None:
    members = drawn(2, 3, (30, 40), 7)
    start = {**members[0].adapter, RESIDUAL_A: torch.zeros(6, 40), RESIDUAL_B: torch.zeros(30, 6)}
    first, again, later, other = (
        combine(strategy, start, members, server_round)[A]
        for strategy, server_round in ((FLoRA(), 1), (FLoRA(), 1), (FLoRA(), 2), (FLoRA(seed=1), 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)
    assert float(first.abs().max()) <= 40**-0.5
    # uniform on +-1/sqrt(40): variance 1/(3 * 40), 120 draws
    assert float(first.square().mean()) == pytest.approx(1 / 120, rel=0.3)


def test_a_frozen_factor_that_a_client_moved_is_ignored() -> None:
    """A client that moved the frozen factor all the same does not move the global one."""
    members = drawn(3, 2, SHAPE, 8)
    start = start_of(members)
    assert torch.equal(combine(FFALoRA(), start, members)[A], start[A])
    kept = combine(FedSALoRA(share_b=False), start, members)
    assert torch.equal(kept[B], start[B])
    torch.testing.assert_close(kept[A], combine(FedIT(), start, members)[A])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlexLoRA(row_norm=0.0), "row_norm: expected a finite number above 0, found 0.0"),
        (lambda: FedSVD(row_norm=float("inf")), "row_norm: .* found inf"),
        (lambda: LoRAFAIR(ridge=-1.0), "ridge: expected a finite number of at least 0, found -1.0"),
        (lambda: FLoRANA(steps=0), "steps: expected a whole number >= 1, found 0"),
        (lambda: FedIT(weighting="sizes"), "weighting: expected 'examples' or 'uniform'"),
    ],
)
def test_arguments_out_of_range_are_named(make: Make, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
