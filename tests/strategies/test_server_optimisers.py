"""FedAvgM, FedAdagrad, FedAdam and FedYogi beside torch.optim and beside loops of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.strategies.adaptive._server_optimiser import ServerOptimiser
from fl2ora.strategies.adaptive.fedadagrad import FedAdagrad
from fl2ora.strategies.adaptive.fedadam import FedAdam
from fl2ora.strategies.adaptive.fedyogi import FedYogi
from fl2ora.strategies.averaging.fedavgm import FedAvgM
from fl2ora.strategies.updates import ClientUpdate
from planned import combine
from quadratics import scalar

DELTAS = [0.2, -0.1, 0.0, 0.05, -0.3]  # mean changes of five rounds


def steps(strategy: ServerOptimiser, start: float = 1.0) -> list[float]:
    """Return theta after each round in which the clients' mean moves by DELTAS."""
    current, seen = scalar(start), []
    for server_round, delta in enumerate(DELTAS, start=1):
        pair = [
            ClientUpdate("a", {"x": current["x"] + delta + 0.3}, 1),
            ClientUpdate("b", {"x": current["x"] + delta - 0.1}, 3),
        ]
        current = combine(strategy, current, pair, server_round)
        seen.append(current["x"].item())
    return seen


def torch_steps(make: Callable[[list[torch.Tensor]], torch.optim.Optimizer]) -> list[float]:
    """Return the same from an optimiser of torch, the gradient being minus the change."""
    theta = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimiser, seen = make([theta]), []
    for delta in DELTAS:
        theta.grad = torch.tensor([-delta], dtype=torch.float64)
        optimiser.step()
        seen.append(theta.item())
    return seen


@pytest.mark.parametrize(("beta", "eta"), [(0.9, 1.0), (0.5, 0.3), (0.0, 1.0)])
def test_fedavgm_is_torchs_sgd_with_momentum(beta: float, eta: float) -> None:
    expected = torch_steps(lambda p: torch.optim.SGD(p, lr=eta, momentum=beta))
    assert steps(FedAvgM(beta=beta, eta=eta)) == pytest.approx(expected, rel=1e-6)


def test_fedadagrad_is_torchs_adagrad() -> None:
    expected = torch_steps(
        lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=1e-6, eps=1e-3)
    )
    assert steps(FedAdagrad()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("yogi", [False, True])
def test_fedadam_and_fedyogi_follow_the_papers_algorithm(yogi: bool) -> None:
    theta, m, v, expected = 1.0, 0.0, 1e-6, []
    for delta in DELTAS:
        m = 0.8 * m + 0.2 * delta
        if yogi:
            v -= 0.05 * delta**2 * ((v > delta**2) - (v < delta**2))
        else:
            v = 0.95 * v + 0.05 * delta**2
        theta += 0.02 * m / (math.sqrt(v) + 1e-3)
        expected.append(theta)
    kind = FedYogi if yogi else FedAdam
    assert steps(kind(eta=0.02, beta1=0.8, beta2=0.95)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (FedAdam(eta=0.01), 1.009513),  # .01 * .02 / (sqrt(.00040099) + .001)
        (FedYogi(eta=0.01), 1.009512),  # .01 * .02 / (sqrt(.000401) + .001)
        (FedAdagrad(eta=0.1), 1.099501),  # .1 * .2 / (sqrt(.040001) + .001)
        (FedAvgM(), 1.2),
    ],
)
def test_first_step_from_one_with_a_change_of_a_fifth(
    strategy: ServerOptimiser, expected: float
) -> None:
    result = combine(strategy, scalar(1.0), [ClientUpdate("a", scalar(1.2), 7)])
    assert result["x"].item() == pytest.approx(expected, abs=1e-6)


def test_the_weighting_is_that_of_the_mean_change() -> None:
    pair = [ClientUpdate("a", scalar(1.0), 1), ClientUpdate("b", scalar(2.0), 3)]
    for weighting, mean in (("examples", 1.75), ("uniform", 1.5)):
        strategy = FedAvgM(weighting=weighting)
        assert combine(strategy, scalar(0.0), pair)["x"].item() == mean


@pytest.mark.parametrize("make", [FedAvgM, FedAdam, FedYogi, FedAdagrad])
def test_loading_an_empty_state_forgets(make: Callable[[], ServerOptimiser]) -> None:
    strategy = make()
    empty: Adapter = strategy.state()
    pair = [ClientUpdate("a", scalar(1.2), 7)]
    first = combine(strategy, scalar(1.0), pair)
    second = combine(strategy, scalar(1.0), pair, 2)
    assert not torch.equal(first["x"], second["x"])
    strategy.load_state(as_adapter(empty))
    assert torch.equal(combine(strategy, scalar(1.0), pair)["x"], first["x"])


@pytest.mark.parametrize(
    ("make", "kwargs", "message"),
    [
        (FedAvgM, {"beta": 1.0}, "beta: expected 0 <= beta < 1"),
        (FedAvgM, {"eta": 0.0}, "eta: expected a finite number above 0"),
        (FedAdam, {"beta2": 1.0}, "beta2: expected"),
        (FedYogi, {"beta1": -0.1}, "beta1: expected"),
        (FedAdagrad, {"tau": 0.0}, "tau: expected"),
        (FedAdagrad, {"weighting": "sizes"}, "weighting: expected"),
    ],
)
def test_impossible_arguments_are_refused(
    make: Callable[..., ServerOptimiser], kwargs: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**kwargs)
