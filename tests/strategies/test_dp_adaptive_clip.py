"""The clip that follows a quantile: by hand, by its limit, and its price by dp-accounting."""

from __future__ import annotations

import math

import dp_accounting
import pytest
import torch
from dp_accounting import pld

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.contract import check_strategy
from fl2ora.strategies.privacy._clip import Clip
from fl2ora.strategies.privacy.dp_fedavg import DPFedAvg
from fl2ora.strategies.updates import ClientUpdate
from planned import begun

ZERO = {"x": torch.zeros(2)}


def one_round(strategy: Strategy, lengths: list[float], server_round: int = 1) -> Adapter:
    """Aggregate changes from 0 of the given lengths."""
    keys = [f"{index:03d}" for index in range(len(lengths))]
    if not hasattr(strategy, "run"):
        begun(strategy, keys, ZERO)
    plan = strategy.plan(server_round, ZERO, keys)
    updates = [
        ClientUpdate(key, {"x": torch.tensor([length, 0.0])}, 1)
        for key, length in zip(keys, lengths, strict=True)
    ]
    return as_adapter(strategy.aggregate(plan, iter(updates)))


def test_the_clip_moves_by_hand() -> None:
    # Three of four are at most 1 long: C = exp(-.2 (.75 - .5)).
    strategy = DPFedAvg(clip=1.0, noise_multiplier=0, clip_quantile=0.5)
    result = one_round(strategy, [0.25, 0.5, 1.0, 4.0])
    assert result["x"].tolist() == pytest.approx([(0.25 + 0.5 + 1 + 1) / 4, 0])
    assert strategy.metrics() == {"clipped_share": 0.25, "noise_norm": 0.0, "clip": 1.0}
    one_round(strategy, [0.25, 0.5, 1.0, 4.0], 2)
    assert strategy.metrics()["clip"] == pytest.approx(math.exp(-0.05))
    fast = DPFedAvg(clip=1.0, noise_multiplier=0, clip_quantile=0.9, clip_rate=1.0)
    for server_round in (1, 2):
        one_round(fast, [2.0, 2.0], server_round)
    assert fast.metrics()["clip"] == pytest.approx(math.exp(0.9), rel=1e-6)


@pytest.mark.parametrize(("quantile", "between"), [(0.25, (2, 3)), (0.5, (5, 6)), (0.81, (8, 9))])
@pytest.mark.parametrize("first", [0.01, 1000.0])
def test_the_clip_comes_to_lie_at_the_quantile(
    quantile: float, between: tuple[float, float], first: float
) -> None:
    strategy = DPFedAvg(clip=first, noise_multiplier=0, clip_quantile=quantile)
    for server_round in range(1, 201):
        one_round(strategy, [float(length) for length in range(1, 11)], server_round)
    low, high = between
    assert low * 0.9 < strategy.metrics()["clip"] < high * 1.1


@pytest.mark.parametrize(("z", "count_noise"), [(1.0, 1.0), (0.8, 5.0), (4.0, 2.5)])
def test_changes_and_count_cost_together_what_is_charged(z: float, count_noise: float) -> None:
    """Theorem 1 of the paper: the count, shifted by 1/2 per client, has sensitivity 1/2."""
    clip = Clip(1.0, z, 0.5, 0.2, count_noise)
    both = pld.PLDAccountant()
    both.compose(dp_accounting.GaussianDpEvent(clip.noise_multiplier(10)), 3)
    both.compose(dp_accounting.GaussianDpEvent(count_noise / 0.5), 3)
    one = dp_accounting.get_epsilon_gaussian(z / math.sqrt(3), 1e-5)
    assert both.get_epsilon(1e-5) == pytest.approx(one, rel=2e-3)
    strategy = DPFedAvg(noise_multiplier=z, clip_quantile=0.5, count_noise=count_noise)
    for server_round in (1, 2, 3):
        one_round(strategy, [1.0] * 3, server_round)
    assert strategy.metrics()["epsilon"] == pytest.approx(one, rel=1e-6)


def test_the_noise_on_the_count_unless_told() -> None:
    assert Clip(1.0, 1.0, 0.5, 0.2, 0.0).count_noise(100) == 5.0  # the paper's m / 20
    few = Clip(1.0, 2.0, 0.5, 0.2, 0.0)
    assert few.count_noise(10) == 5.0
    assert few.noise_multiplier(10) == pytest.approx(2 / math.sqrt(0.96))
    fixed = Clip(1.0, 2.0, 0.0, 0.2, 0.0)
    assert fixed.noise_multiplier(10) == 2.0


def test_the_changes_bear_the_larger_noise() -> None:
    n, z, m = 400_000, 2.0, 4
    start = {"x": torch.zeros(n)}
    strategy = begun(DPFedAvg(0.5, z, clip_quantile=0.5, count_noise=1.25, seed=1), "abcd", start)
    plan = strategy.plan(1, start, "abcd")
    still = [ClientUpdate(key, start, 1) for key in "abcd"]
    noise = strategy.aggregate(plan, still)["x"].double()
    std = (1 / z**2 - 1 / 2.5**2) ** -0.5 * 0.5 / m
    assert float(noise.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * n))


def test_the_noise_on_the_count_has_the_stated_spread() -> None:
    moves = []
    for seed in range(2000):
        clip = Clip(1.0, 1.0, 0.5, 0.2, 3.0)
        clip.follow(10, 20, 20, seed)  # half are short: only noise moves it
        moves.append(-math.log(clip.value) / 0.2 * 20)
    drawn = torch.tensor(moves, dtype=torch.float64)
    assert abs(float(drawn.mean())) < 5 * 3 / math.sqrt(2000)
    assert float(drawn.std()) == pytest.approx(3.0, rel=0.08)


def test_it_keeps_the_contract_and_goes_on_after_a_restart() -> None:
    check_strategy(
        "dp_fedavg(seed=1, clip_quantile=0.5, noise_multiplier=0.5)", averages=False, alike=False
    )
    strategy = DPFedAvg(noise_multiplier=1.0, clip_quantile=0.5, seed=4)
    one_round(strategy, [3.0] * 5)
    resumed = DPFedAvg(noise_multiplier=1.0, clip_quantile=0.5, seed=4)
    resumed.load_state(strategy.state())
    assert resumed.state().keys() == strategy.state().keys()
    assert resumed._clip.value == strategy._clip.value != 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("clip_quantile=1.0", "clip_quantile: expected at least 0 and less than 1, found 1.0"),
        ("clip_quantile=-0.1", "clip_quantile: expected"),
        ("clip_quantile=0.5, clip_rate=0.0", "clip_rate: expected more than 0"),
        ("clip_quantile=0.5, count_noise=-1.0", "count_noise: expected a finite number"),
        ("clip_quantile=0.5, count_noise=0.5", "count_noise: expected more than half of noise"),
        ("count_noise=2.0", "count_noise: expected 0 where clip_quantile or noise_multiplier"),
        ("clip_quantile=0.5, noise_multiplier=0, count_noise=2.0", "count_noise: expected 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(f"dp_fedavg({arguments})", Strategy)
