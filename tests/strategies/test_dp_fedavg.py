"""Clipping, noise and the mean of dp_fedavg, by hand and by their laws."""

from __future__ import annotations

import math
from pathlib import Path

import dp_accounting
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.reporting.events import read_lines
from fl2ora.strategies.attacks.attacked import Attacked
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.contract import check_strategy
from fl2ora.strategies.privacy._noise import change_norm, clipped, gaussian_noise
from fl2ora.strategies.privacy.dp_fedavg import DPFedAvg
from fl2ora.strategies.toy_clients import START, play_round, toy_clients
from fl2ora.strategies.updates import ClientUpdate
from planned import begun, combine
from runs import final_adapter, run_small

FACTORS = {name: tensor for name, tensor in START.items() if "lora" in name}


def update(client: str, values: list[float], examples: int = 1) -> ClientUpdate:
    return ClientUpdate(client, {"x": torch.tensor(values)}, examples)


def one(strategy: Strategy, *updates: ClientUpdate, start: float = 0.0) -> Adapter:
    current = {"x": torch.full_like(updates[0].adapter["x"], start)}
    begun(strategy, [update.client for update in updates], current)
    return as_adapter(combine(strategy, current, updates))


@pytest.mark.parametrize(
    "spec",
    [
        "dp_fedavg(noise_multiplier=0, clip=1e9)",
        "dp_fedavg(noise_multiplier=0.0, clip=1000.0, factor='')",
    ],
)
def test_dp_fedavg_without_noise_keeps_the_contract(spec: str) -> None:
    check_strategy(spec)


def test_dp_fedavg_with_seeded_noise_keeps_the_contract_except_equal_and_single_clients() -> None:
    # A single client's adapter is not handed on, and the noise shrinks with the number of clients.
    with pytest.raises(AssertionError, match="equal clients"):
        check_strategy("dp_fedavg(seed=1)", averages=False)
    check_strategy("dp_fedavg(seed=1)", averages=False, alike=False)
    check_strategy("dp_fedavg(noise_multiplier=0, clip=0.1)", averages=False)
    check_strategy("dp_fedavg(noise_multiplier=0, factor='B')", averages=False, start=FACTORS)
    check_strategy("dp_fedavg(noise_multiplier=0)", start={})


def test_noise_from_the_operating_system_never_repeats() -> None:
    with pytest.raises(AssertionError, match="determinism: equal rounds"):
        check_strategy("dp_fedavg", averages=False)


def test_dp_fedavg_without_noise_and_clipping_is_the_uniform_mean() -> None:
    clients = toy_clients(START, 7)
    keys = [client.key for client in clients]
    plan = RoundPlan(1, START, tuple(keys))
    updates = play_round(plan, clients)
    expected = FedAvg(weighting="uniform").aggregate(plan, iter(updates))
    private = begun(DPFedAvg(clip=1e9, noise_multiplier=0), keys, START)
    found = private.aggregate(plan, iter(updates))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_clipped_mean_by_hand() -> None:
    # (3, 4) has norm 5 and is cut to (0.6, 0.8); (0, 0.5) stays; sizes do not count.
    strategy = DPFedAvg(noise_multiplier=0)
    result = one(strategy, update("a", [4.0, 5.0], 90), update("b", [1.0, 1.5]), start=1.0)
    torch.testing.assert_close(result["x"], torch.tensor([1.3, 1.65]))
    assert strategy.metrics() == {"clipped_share": 0.5, "noise_norm": 0.0}  # epsilon: infinite
    faster = DPFedAvg(noise_multiplier=0, server_learning_rate=2.0)
    result = one(faster, update("a", [4.0, 5.0]), update("b", [1.0, 1.5]), start=1.0)
    torch.testing.assert_close(result["x"], torch.tensor([1.6, 2.3]))


def test_one_client_that_did_not_move_changes_nothing() -> None:
    for clip in (1e-30, 1.0):
        result = one(DPFedAvg(clip=clip, noise_multiplier=0), update("a", [2.0, 2.0]), start=2.0)
        assert result["x"].tolist() == [2.0, 2.0]


def test_the_clip_is_over_all_tensors_together() -> None:
    start = {"a": torch.zeros(1), "b": torch.zeros(2, 2)}
    adapter = {"a": torch.tensor([3.0]), "b": torch.tensor([[0.0, 4.0], [0.0, 0.0]])}
    assert change_norm(adapter, start) == 5.0
    cut = clipped(adapter, start, 1.0)
    assert cut["a"].item() == pytest.approx(0.6, abs=1e-15)
    assert cut["b"][0, 1].item() == pytest.approx(0.8, abs=1e-15)


vectors = st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3)


@settings(max_examples=100, deadline=None)
@given(st.lists(vectors, min_size=2, max_size=5), vectors, st.floats(1e-3, 1e3))
def test_one_client_moves_the_sum_by_at_most_the_clip_and_replaced_by_twice(
    changes: list[list[float]], other: list[float], clip: float
) -> None:
    start = {"x": torch.zeros(3)}

    def part(values: list[float]) -> torch.Tensor:
        return clipped({"x": torch.tensor(values)}, start, clip)["x"]

    whole = sum(map(part, changes), start=torch.zeros(3))
    without = sum(map(part, changes[1:]), start=torch.zeros(3))
    replaced = without + part(other)
    allowed = clip * (1 + 1e-12) + 1e-9
    assert float((whole - without).norm()) <= allowed
    assert float((whole - replaced).norm()) <= 2 * allowed


def test_one_client_moves_the_mean_by_at_most_twice_the_clip_over_m() -> None:
    strategy = DPFedAvg(clip=0.5, noise_multiplier=0)
    others = [update(c, [float(i), -1.0]) for i, c in enumerate("bcd")]
    first = one(strategy, update("a", [1e6, 1e6]), *others)
    second = one(strategy, update("a", [-1e6, -1e6]), *others)
    assert float((first["x"] - second["x"]).norm()) == pytest.approx(2 * 0.5 / 4, rel=1e-5)


@pytest.mark.parametrize("seed", [11, None])
def test_the_noise_has_the_stated_spread(seed: int | None) -> None:
    n, clip, z, clients = 400_000, 2.0, 1.5, 3
    strategy = DPFedAvg(clip=clip, noise_multiplier=z, seed=seed)
    noise = one(strategy, *(update(str(i), [0.0] * n) for i in range(clients)))["x"].double()
    std = z * clip / clients
    # Five standard errors: of a mean std/sqrt(n), of a variance 2 std^4/n, of a share 0.5/sqrt(n).
    assert abs(float(noise.mean())) < 5 * std / math.sqrt(n)
    assert float(noise.var()) == pytest.approx(std**2, rel=5 * math.sqrt(2 / n))
    for limit, share in ((1.0, 0.682689), (2.0, 0.954500), (3.0, 0.997300)):
        inside = float((noise.abs() < limit * std).double().mean())
        assert inside == pytest.approx(share, abs=2.5 / math.sqrt(n))
    assert strategy.metrics()["noise_norm"] == pytest.approx(float(noise.norm()), rel=1e-6)
    neighbours = float((noise[1:] * noise[:-1]).mean()) / std**2
    assert abs(neighbours) < 5 / math.sqrt(n)


def test_a_seed_repeats_the_noise_and_rounds_differ() -> None:
    like = {"b": torch.zeros(2, 3), "a": torch.zeros(4), "none": torch.zeros(0)}
    first, again, other = (gaussian_noise(like, 1.0, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in like)
    assert not torch.equal(first["a"], other["a"])
    assert not torch.equal(*(gaussian_noise(like, 1.0, None)["b"] for _ in range(2)))
    assert {name: t.shape for name, t in first.items()} == {n: t.shape for n, t in like.items()}
    zeros = {"x": torch.zeros(5)}
    strategy = begun(DPFedAvg(seed=3), "a", zeros)
    rounds = [combine(strategy, zeros, [update("a", [0.0] * 5)], r) for r in (1, 2)]
    assert not torch.equal(rounds[0]["x"], rounds[1]["x"])


def test_epsilon_after_each_round_and_after_a_restart() -> None:
    strategy = begun(DPFedAvg(noise_multiplier=2.0, delta=1e-6), "0123", START)
    current = START
    for server_round in (1, 2, 3):
        clients = toy_clients(START)[: 5 - server_round]
        plan = strategy.plan(server_round, current, "0123"[: 5 - server_round])
        current = as_adapter(strategy.aggregate(plan, play_round(plan, clients)[:-1]))
        expected = dp_accounting.get_epsilon_gaussian(2.0 / math.sqrt(server_round), 1e-6)
        assert strategy.metrics()["epsilon"] == pytest.approx(expected, rel=1e-6)
    resumed = DPFedAvg(noise_multiplier=2.0, delta=1e-6)
    resumed.load_state(strategy.state())
    assert resumed.metrics()["epsilon"] == strategy.metrics()["epsilon"]


def test_who_is_asked_pays_when_the_sum_is_released() -> None:
    strategy = begun(DPFedAvg(noise_multiplier=2.0), "0123", START)
    strategy.plan(1, START, "0123")  # comes to nothing: nothing is released
    assert strategy.metrics()["epsilon"] == 0.0
    plan = strategy.plan(2, START, "01")
    strategy.aggregate(plan, play_round(plan, toy_clients(START, 2))[:1])  # one reply is lost
    assert {name: float(n) for name, n in strategy.state().items() if "clients/" in name} == {
        "clients/0": 1.0,
        "clients/1": 1.0,
    }


def test_poisson_counts_the_share_that_was_asked() -> None:
    everyone = [str(index) for index in range(100)]
    strategy = begun(DPFedAvg(sampling="poisson", noise_multiplier=1.2), everyone, START)
    for server_round in (1, 2):
        plan = strategy.plan(server_round, START, everyone[:4])
        updates = play_round(plan, toy_clients(START))
        strategy.aggregate(plan, updates[:-1])  # one reply is lost
    event = dp_accounting.PoissonSampledDpEvent(4 / 100, dp_accounting.GaussianDpEvent(1.2))
    accountant = dp_accounting.pld.PLDAccountant()
    expected = accountant.compose(event, 2).get_epsilon(1e-5)
    assert strategy.metrics()["epsilon"] == pytest.approx(expected, rel=2e-4)


def test_one_factor_is_trained_and_noised_alone() -> None:
    strategy = begun(DPFedAvg(factor="B", seed=1), "0123", FACTORS)
    plan = strategy.plan(1, FACTORS, "0123")
    result = strategy.aggregate(plan, iter(play_round(plan, toy_clients(FACTORS))))
    for name, tensor in FACTORS.items():
        assert torch.equal(result[name], tensor) == ("lora_A" in name)
    with pytest.raises(UserError, match="factor='B' needs LoRA pairs"):
        begun(strategy, "0123", {"prompt": torch.zeros(3)})


def test_dp_fedavg_inside_a_wrapping_strategy() -> None:
    attacked = Attacked(inner="dp_fedavg(noise_multiplier=2.0)", clients="1")
    strategy = begun(attacked, "0123", START)
    plan = strategy.plan(1, START, "0123")
    strategy.aggregate(plan, play_round(plan, toy_clients(START))[:1])
    assert strategy.metrics()["epsilon"] == pytest.approx(
        dp_accounting.get_epsilon_gaussian(2.0, 1e-5), rel=1e-6
    )
    assert {name for name in strategy.state() if name.startswith("clients/")} == {
        f"clients/{key}" for key in "0123"
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("clip=0.0", "clip: expected a finite number above 0, found 0"),
        ("clip=1e999", "clip: expected a finite"),
        ("noise_multiplier=-1.0", "noise_multiplier: expected"),
        ("noise_multiplier=1e-08", "noise_multiplier: expected 0 for no noise, or .* 0.0001"),
        ("delta=0.0", "delta: expected"),
        ("delta=1.0", "delta: expected"),
        ("server_learning_rate=0.0", "server_learning_rate: expected"),
        ("sampling='fixed'", "sampling: expected 'known' or 'poisson', found 'fixed'"),
        ("factor='C'", "factor: expected"),
        ("seed=1.5", "seed: expected int or None, found 1.5"),
        ("seed=True", "seed: expected"),
    ],
)
def test_impossible_arguments_are_refused(arguments: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(f"dp_fedavg({arguments})", Strategy)


def test_a_seed_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    DPFedAvg(seed=1)
    assert "for simulations only" in caplog.text


def test_a_run_reports_epsilon_every_round_and_repeats_with_a_seed(tmp_path: Path) -> None:
    spec = "dp_fedavg(clip=0.5, noise_multiplier=0.01, sampling='poisson', seed=1)"
    folders = [run_small(tmp_path / name, strategy=spec) for name in ("one", "two")]
    rows = read_lines(folders[0] / "metrics.jsonl")
    ends = [row for row in rows if row["source"] == "training"]
    expected = [dp_accounting.get_epsilon_gaussian(0.01 / math.sqrt(t), 1e-5) for t in (1, 2)]
    assert [end["epsilon"] for end in ends] == pytest.approx(expected, rel=1e-6)
    assert all(0 <= end["clipped_share"] <= 1 and end["noise_norm"] > 0 for end in ends)
    first, second = map(final_adapter, folders)
    assert all(torch.equal(first[name], second[name]) for name in first)
