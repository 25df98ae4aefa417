from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fl2ora.experiment.plugins import load
from fl2ora.server_app.callbacks.base import RoundReport
from fl2ora.server_app.callbacks.lora_diagnostics import LoRADiagnostics
from fl2ora.server_app.factor_losses import FactorLosses
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.lora._ranks import cut_to_rank
from fl2ora.strategies.lora.flexlora import FlexLoRA
from fl2ora.strategies.updates import ClientUpdate
from lora_factors import (
    RESIDUAL_A,
    RESIDUAL_B,
    A,
    B,
    M,
    dense,
    drawn,
    example_one,
    example_two,
    mean_product,
    pair,
    updates,
)
from planned import begun, combine, plan_of

OTHER = M.replace("q_proj", "v_proj")


def watched(members: list[ClientUpdate], scalings: dict[str, float] | None = None) -> FactorLosses:
    losses = FactorLosses(scalings or {})
    plan = plan_of(members, members[0].adapter)
    for member in members:
        losses.add(plan, member)
    return losses


def test_the_first_example() -> None:
    members = example_one()
    found = watched(members).result(combine(FedAvg(), {}, members))
    assert found["lora_aggregation_error"] == pytest.approx(math.sqrt(0.5))  # .5 / .7071
    assert found["lora_aggregation_error_worst"] == pytest.approx(math.sqrt(0.5))
    assert found["lora_server_error"] == pytest.approx(math.sqrt(0.5))
    assert found["lora_update_norm"] == pytest.approx(0.5)


def test_the_second_example() -> None:
    members = example_two()
    following = combine(FlexLoRA(), members[0].adapter, members)
    found = watched(members, {M: 0.5}).result(following)
    norm = math.hypot(4.91127, 0.534485)
    assert found["lora_aggregation_error"] == pytest.approx(1.393694 / norm, rel=1e-5)
    # The SVD's step loses less than averaging would have lost.
    assert found["lora_server_error"] == pytest.approx(0.534485 / norm, rel=1e-5)
    assert found["lora_update_norm"] == pytest.approx(0.5 * 4.91127, rel=1e-5)


@given(st.integers(1, 12), st.integers(1, 3), st.integers(0, 1000))
@settings(max_examples=40)
def test_aggregation_error_equals_the_dense_computation(count: int, rank: int, seed: int) -> None:
    """A pair of 7 x 5 is folded into its dense sum from the third client or so on."""
    members = drawn(count, rank, (7, 5), seed, modules=(M, OTHER))
    following = combine(FedAvg(), {}, members)
    scale = {M: 0.7, OTHER: 0.2}
    diagnostics = watched(members, scale)
    exact = {module: mean_product(members, module) for module in scale}
    apart = {module: dense(following, module) for module in scale}
    total = math.sqrt(sum((s * np.linalg.norm(exact[m])) ** 2 for m, s in scale.items()))
    lost = math.sqrt(sum((s * np.linalg.norm(exact[m] - apart[m])) ** 2 for m, s in scale.items()))
    size = math.sqrt(sum((s * np.linalg.norm(apart[m])) ** 2 for m, s in scale.items()))
    found = diagnostics.result(following)
    assert found["lora_aggregation_error"] == pytest.approx(lost / total, abs=1e-6)
    assert found["lora_server_error"] == pytest.approx(lost / total, abs=1e-6)
    assert found["lora_update_norm"] == pytest.approx(size, rel=1e-6)
    each = {m: np.linalg.norm(exact[m] - apart[m]) / np.linalg.norm(exact[m]) for m in scale}
    assert found["lora_aggregation_error_worst"] == pytest.approx(max(each.values()), abs=1e-6)


@pytest.mark.parametrize("clients", [1, 2, 30])
def test_a_common_factor_loses_nothing(clients: int) -> None:
    members = drawn(clients, 2, (7, 5), 3, same_a=True)
    found = watched(members).result(combine(FedAvg(), {}, members))
    assert found["lora_aggregation_error"] < 1e-13
    assert found["lora_server_error"] < 1e-6  # the adapter is float32


def test_memory_is_bounded_by_the_dense_sum() -> None:
    diagnostics = FactorLosses({})
    most = 0
    members = drawn(200, 2, (7, 5))
    for member in members:
        diagnostics.add(plan_of(members, members[0].adapter), member)
        sums = diagnostics._sums[M]
        most = max(most, sum(part.a.numel() + part.b.numel() for part in sums._parts))
    assert most <= 2 * 7 * 5


def test_residual_counts_as_part_of_the_update() -> None:
    carried = {RESIDUAL_A: torch.tensor([[2.0, 0.0]]), RESIDUAL_B: torch.tensor([[1.0], [1.0]])}
    members = [
        ClientUpdate(m.client, {**m.adapter, **carried}, m.num_examples) for m in example_two()
    ]
    kept = combine(FlexLoRA(), members[0].adapter, members)
    found = watched(members).result(kept)
    norm = math.hypot(4.91127, 0.534485)
    assert found["lora_server_error"] == pytest.approx(0.534485 / norm, rel=1e-5)
    assert found["lora_update_norm"] == pytest.approx(float(np.linalg.norm(dense(kept))), rel=1e-6)
    forgotten = {**kept, RESIDUAL_A: torch.zeros(1, 2)}
    missing = np.array([[2.0, 0.0], [2.0, 0.0]])
    expected = np.linalg.norm(dense(forgotten) - mean_product(members)) / norm
    assert np.linalg.norm(missing) / norm > 0.5
    assert watched(members).result(forgotten)["lora_server_error"] == pytest.approx(
        float(expected), rel=1e-5
    )


@pytest.mark.parametrize("spec", ["fedex_lora(ranks='4,1,2')", "flora(ranks='4,1,2')"])
def test_an_exact_server_makes_no_error_where_clients_have_ranks_of_their_own(spec: str) -> None:
    start = {**drawn(1, 4)[0].adapter, RESIDUAL_A: torch.zeros(5, 5), RESIDUAL_B: torch.zeros(7, 5)}
    strategy = begun(load(spec, Strategy), "abc", start)
    plan = strategy.plan(1, start, "abc")
    members = []
    for client, rank, factors in zip("abc", (4, 1, 2), drawn(3, 4, seed=5), strict=True):
        trained = {**start, **cut_to_rank(factors.adapter, rank)}
        members.append(ClientUpdate(client, trained, 1 + rank))
    following = strategy.aggregate(plan, members)
    losses = FactorLosses({})
    for member in members:
        losses.add(plan, member)
    assert losses.result(following)["lora_server_error"] < 1e-6


def test_what_flexlora_takes_from_idle_clients_of_lower_rank_shows() -> None:
    """Two idle clients, one of rank 1: the second rank is halved, though nobody moved."""
    start = pair([[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    strategy = begun(load("flexlora(ranks='2,1')", Strategy), "ab", start)
    plan = strategy.plan(1, start, "ab")
    idle = [ClientUpdate(client, dict(plan.start_of(client)), 5) for client in "ab"]
    losses = FactorLosses({})
    for member in idle:
        losses.add(plan, member)
    found = losses.result(strategy.aggregate(plan, idle))
    assert found["lora_server_error"] == pytest.approx(0.5 / math.sqrt(5))
    assert found["lora_aggregation_error"] < 1e-6


def test_aggregation_error_of_zero_updates_is_zero() -> None:
    members = drawn(3, 2, (7, 5), 3)
    still = updates([{**m.adapter, B: torch.zeros(7, 2)} for m in members], [1, 2, 3])
    found = watched(still).result(still[0].adapter)
    assert set(found.values()) == {0.0}


def test_other_adapters_have_no_figures() -> None:
    prompt = [ClientUpdate("a", {"context": torch.ones(4, 8)}, 5)]
    assert watched(prompt).result(prompt[0].adapter) == {}
    assert FactorLosses({}).result({A: torch.ones(1, 1)}) == {}


def test_every_round_of_a_run_is_judged_by_its_own_updates() -> None:
    callback = LoRADiagnostics()
    callback.on_start(SimpleNamespace(classifier=SimpleNamespace(clip=nn.Module())))  # type: ignore[arg-type]
    for number, members in enumerate((example_one(), example_two(), example_one()), 1):
        plan = plan_of(members, members[0].adapter, number)
        for member in members:
            callback.on_update(plan, member)
        following = combine(FedAvg(), {}, members)
        found = callback.after_training(RoundReport(plan, following)).metrics
        assert found == watched(members).result(following)
