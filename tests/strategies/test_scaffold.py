"""Numbers: lr 0.1, two steps, x0 = 0, variates 0. Client a: 0 -> .1 -> .19; b: 0 -> 1.5 -> 2.55.

c_k = (x - y)/(2*0.1): -.95, -12.75; x = 1.37, c = -6.85. Round 2 steps along grad - c_k + c.
"""

from __future__ import annotations

import math

import pytest
import torch

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.errors import UserError
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.averaging.scaffold import SCAFFOLD, SCAFFOLDRule
from fl2ora.strategies.base import LocalWork, RunInfo
from fl2ora.strategies.client_rule import LocalStart
from fl2ora.strategies.toy_clients import ToyClient
from fl2ora.strategies.updates import ClientUpdate
from planned import begun, plan_of
from quadratics import one_round, play, scalar, two_clients


def scaffold(**kwargs: float) -> SCAFFOLD:
    return begun(SCAFFOLD(**kwargs), "ab", scalar(0.0))


def test_two_rounds_by_hand() -> None:
    strategy, clients = scaffold(), two_clients(steps=2, learning_rate=0.1)
    first, updates = one_round(strategy, 1, scalar(0.0), clients)
    assert [u.adapter["x"].item() for u in updates] == pytest.approx([0.19, 2.55])
    assert [u.aux["distance"].item() for u in updates] == pytest.approx([0.2, 0.2])
    assert [c.state["x"].item() for c in clients] == pytest.approx([-0.95, -12.75])
    assert first["x"].item() == pytest.approx(1.37)
    assert strategy.plan(2, first, "ab").aux["x"].item() == pytest.approx(-6.85)
    second, _ = one_round(strategy, 2, first, clients)
    assert second["x"].item() == pytest.approx(2.3195)


def test_scaffold_reaches_the_optimum_where_fedavg_does_not() -> None:
    clients = two_clients(steps=5, learning_rate=0.1)
    assert play(scaffold(), 60, clients) == pytest.approx(4.0, abs=1e-3)
    # Of FedAvg, five steps shrink the distance to each optimum by .9^5 and .7^5:
    a, b = 1 - 0.9**5, 1 - 0.7**5
    expected = (a * 1 + b * 5) / (a + b)
    assert play(FedAvg(), 60, two_clients(5, 0.1)) == pytest.approx(expected, abs=1e-3)


def test_scaffold_reaches_the_optimum_with_one_client_a_round() -> None:
    strategy, clients, current = scaffold(), two_clients(5, 0.05), scalar(0.0)
    for server_round in range(1, 201):
        current, _ = one_round(strategy, server_round, current, [clients[server_round % 2]])
    assert current["x"].item() == pytest.approx(4.0, abs=1e-2)


def test_the_server_counts_all_clients_and_scales_its_step() -> None:
    strategy = begun(SCAFFOLD(step=0.5), "abcdefgh", scalar(0.0))
    current, _ = one_round(strategy, 1, scalar(0.0), two_clients(2, 0.1))
    assert strategy.state()["c/x"].item() == pytest.approx(-6.85 * 2 / 8)
    assert current["x"].item() == pytest.approx(1.37 / 2)


def test_a_lost_reply_shifts_the_optimum_as_documented() -> None:
    # c is off the mean of the c_k by e = -(lost change)/M; where the mean corrected gradient
    # is zero, the mean gradient (4 x - 16)/2 is -e.
    strategy, clients = scaffold(), two_clients(2, 0.1)
    current, _ = one_round(strategy, 1, scalar(0.0), clients, lost=["a"])
    error = -clients[0].state["x"].item() / 2
    for server_round in range(2, 150):
        current, _ = one_round(strategy, server_round, current, clients)
    assert current["x"].item() == pytest.approx(4.0 - error / 2, abs=1e-3)


def test_momentum_is_refused_with_the_remedy() -> None:
    start = LocalStart({}, {}, momentum=0.9)
    with pytest.raises(UserError, match=r"expected 'sgd\(momentum=0\.0\)'.*found momentum 0\.9"):
        SCAFFOLDRule().begin(start)


@pytest.mark.parametrize(
    "aux",
    [
        {},
        {"distance": torch.zeros(1)},
        {"distance": torch.full((1,), -0.1)},
        {"distance": torch.full((1,), math.nan)},
        {"distance": torch.ones(2)},
        {"distance": torch.ones(1), "x": torch.ones(1)},
        {"x": torch.ones(1)},
    ],
)
def test_updates_without_their_distance_are_refused(aux: Adapter) -> None:
    update = ClientUpdate("a", scalar(1.0), 1, aux=aux)
    with pytest.raises(ValueError, match="aux: expected a positive number 'distance', found"):
        SCAFFOLD().check_update(plan_of([], scalar(1.0)), update)


@pytest.mark.parametrize(("distance", "usable"), [(0.4, True), (0.8, False), (0.3999, False)])
def test_a_distance_that_is_not_that_of_the_work_is_refused(distance: float, usable: bool) -> None:
    """It would move the variate of all clients."""
    strategy = SCAFFOLD()
    strategy.begin(RunInfo(("a",), scalar(0.0), work=lambda client, number: LocalWork(4, 0.1)))
    update = ClientUpdate("a", scalar(1.0), 1, aux={"distance": torch.tensor([distance])})
    plan = strategy.plan(1, scalar(0.0), "a")
    if usable:
        strategy.check_update(plan, update)
    else:
        with pytest.raises(ValueError, match=r"aux: distance: expected 0\.4, found"):
            strategy.check_update(plan, update)


def test_a_client_that_diverges_keeps_its_state() -> None:
    client = ToyClient("a", scalar(1.0), weight=1e30, steps=5, learning_rate=1.0)
    client.state = scalar(0.25)
    with pytest.raises(ValueError, match="c_k: x has 1 of 1 values not finite"):
        client.train(scalar(0.0), SCAFFOLDRule(), {})
    assert client.state["x"].item() == 0.25


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan")])
def test_impossible_steps_are_refused(step: float) -> None:
    with pytest.raises(ValueError, match="step: expected a finite number above 0"):
        SCAFFOLD(step=step)
