from __future__ import annotations

import numpy as np
import pytest
import torch

from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.averaging.fednova import FedNova, FedNovaRule, normaliser
from fl2ora.strategies.toy_clients import ToyClient
from fl2ora.strategies.updates import ClientUpdate
from planned import combine, plan_of
from quadratics import one_round, scalar, two_clients


def update(client: str, value: float, examples: int, length: float, steps: float) -> ClientUpdate:
    aux = {"normaliser": torch.tensor([length]), "steps": torch.tensor([steps])}
    return ClientUpdate(client, scalar(value), examples, aux=aux)


PAIR = [update("a", 0.6, 1, 4.0, 4.0), update("b", 0.8, 3, 1.0, 1.0)]


def test_the_weights_are_not_normalised_again() -> None:
    # tau = .25*4 + .75*1 = 1.75; 1.75 (.25*.4/4 + .75*.2/1) = .30625; re-normalising the weights
    # tau p_k/|a_k| by their sum 1.421875 would give .784615 instead.
    result = combine(FedNova(), scalar(1.0), PAIR)
    assert result["x"].item() == pytest.approx(0.69375, abs=1e-7)


def test_fednova_with_uniform_weights() -> None:
    # tau = 2.5; 2.5 (.5*.4/4 + .5*.2) = .375
    result = combine(FedNova(weighting="uniform"), scalar(1.0), PAIR)
    assert result["x"].item() == pytest.approx(0.625, abs=1e-7)


def test_with_mu_tau_is_the_mean_number_of_steps() -> None:
    pair = [update("a", 0.6, 1, 3.439, 4.0), update("b", 0.8, 3, 1.0, 1.0)]
    # tau = 1.75; 1.75 (.25*.4/3.439 + .75*.2/1)
    result = combine(FedNova(mu=0.1), scalar(1.0), pair)
    assert result["x"].item() == pytest.approx(1 - 1.75 * (0.1 / 3.439 + 0.15), abs=1e-6)


def test_server_momentum_adds_up_steps() -> None:
    strategy = FedNova(momentum=0.5)
    first = combine(strategy, scalar(1.0), PAIR)
    second = combine(strategy, first, [update("a", first["x"].item() - 0.2, 1, 2.0, 2.0)], 2)
    assert first["x"].item() == pytest.approx(0.69375, abs=1e-7)
    assert second["x"].item() == pytest.approx(0.69375 - (0.5 * 0.30625 + 0.2), abs=1e-6)


@pytest.mark.parametrize(("steps", "length"), [(1, 1), (2, 2.9), (3, 5.61), (10, 41.38106)])
def test_normaliser_of_momentum(steps: int, length: float) -> None:
    closed = (steps - 0.9 * (1 - 0.9**steps) / (1 - 0.9)) / (1 - 0.9)
    assert normaliser(steps, momentum=0.9) == pytest.approx(length, abs=1e-5)
    assert normaliser(steps, momentum=0.9) == pytest.approx(closed)


@pytest.mark.parametrize(("steps", "length"), [(1, 1), (2, 1.9), (3, 2.71), (10, 6.5132156)])
def test_normaliser_of_the_proximal_term(steps: int, length: float) -> None:
    assert normaliser(steps, shrink=0.1) == pytest.approx(length, abs=1e-7)
    assert normaliser(steps, shrink=0.1) == pytest.approx((1 - 0.9**steps) / 0.1)


def test_normaliser_of_both_follows_the_authors_order() -> None:
    # c = 1, 1.9; n = 1 -> 1*.9+1 = 1.9; n = 3.8 -> 3.8*.9+1 = 4.42
    assert normaliser(1, 0.9, 0.1) == pytest.approx(1.9)
    assert normaliser(2, 0.9, 0.1) == pytest.approx(4.42)


def test_plain_sgd_is_normalised_by_its_steps() -> None:
    assert [normaliser(steps) for steps in (1, 2, 7)] == [1, 2, 7]


@pytest.mark.parametrize(("momentum", "mu"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.5)])
def test_normaliser_is_the_distance_gone_under_a_constant_gradient(
    momentum: float, mu: float
) -> None:
    # An independent loop of heavy-ball SGD on the loss x + mu/2 x^2 from 0.
    rate, x, velocity = 0.1, 0.0, 0.0
    for _ in range(6):
        velocity = momentum * velocity + 1 + mu * x
        x -= rate * velocity
    assert normaliser(6, momentum, rate * mu) == pytest.approx(-x / rate)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equal_steps_are_fedavg(momentum: float) -> None:
    results = []
    for strategy in (FedNova(), FedAvg()):
        clients = two_clients(steps=4, learning_rate=0.05)
        for client in clients:
            client.momentum = momentum
        clients[1].num_examples = 5
        results.append(one_round(strategy, 1, scalar(0.5), clients)[0]["x"].item())
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_a_client_of_more_local_steps_does_not_pull_the_fixed_point() -> None:
    # Small rates: the fixed point of FedNova is near 4 whatever the steps; FedAvg's is where
    # tau_a (x - 1) = 3 tau_b (5 - x), for tau = (10, 2): 2.5.
    ends = {}
    for strategy in (FedNova(), FedAvg()):
        clients = two_clients(learning_rate=0.005)
        clients[0].steps, clients[1].steps = 10, 2
        current = scalar(0.0)
        for server_round in range(1, 150):
            current, _ = one_round(strategy, server_round, current, clients)
        ends[type(strategy)] = current["x"].item()
    assert ends[FedNova] == pytest.approx(4.0, abs=0.06)
    assert ends[FedAvg] == pytest.approx(2.5, abs=0.06)


def test_fednova_rule_sends_its_normaliser_and_steps() -> None:
    client = ToyClient("a", scalar(1.0), steps=3, momentum=0.9)
    sent = client.train(scalar(0.0), FedNovaRule(), {})
    assert {name: tensor.item() for name, tensor in sent.aux.items()} == pytest.approx(
        {"normaliser": 5.61, "steps": 3.0}
    )
    assert not client.state
    # A rate of 0.1 and mu = 1: (1 - .9^3)/.1
    proximal = ToyClient("a", scalar(1.0), steps=3).train(scalar(0.0), FedNovaRule(mu=1.0), {})
    assert proximal.aux["normaliser"].item() == pytest.approx(2.71)


@pytest.mark.parametrize(
    "aux",
    [
        {},
        {"normaliser": torch.ones(1)},
        {"normaliser": torch.zeros(1), "steps": torch.ones(1)},
        {"normaliser": torch.ones(2), "steps": torch.ones(1)},
        {"normaliser": -torch.ones(1), "steps": torch.ones(1)},
    ],
)
def test_updates_without_a_normaliser_are_refused(aux: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="aux: expected a positive number"):
        FedNova().check_update(plan_of([], scalar(1.0)), ClientUpdate("a", scalar(1.0), 1, aux=aux))


@pytest.mark.parametrize("momentum", [-0.1, 1.0, np.nan])
def test_impossible_momentum_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match="momentum: expected"):
        FedNova(momentum=momentum)


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.999}, {"shrink": 0.01}])
def test_many_steps_are_counted_by_a_formula(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, float]
) -> None:
    one_by_one = [normaliser(steps, **settings) for steps in (1, 7, 5000)]
    monkeypatch.setattr("fl2ora.strategies.averaging.fednova._MOST_ONE_BY_ONE", 0)
    found = [normaliser(steps, **settings) for steps in (1, 7, 5000)]
    assert found == pytest.approx(one_by_one, rel=1e-9)


def test_a_client_that_claims_a_million_million_images_does_not_hold_up_the_run() -> None:
    assert normaliser(10**15, momentum=0.5) == pytest.approx(2e15)
    assert normaliser(10**15, shrink=1e-3) == pytest.approx(1000)
    assert abs(normaliser(10**15, shrink=3.0)) == np.inf
