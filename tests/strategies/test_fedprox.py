from __future__ import annotations

import pytest
import torch
from torch import nn

from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.averaging.fedprox import FedProx, FedProxRule
from fl2ora.strategies.client_rule import LocalStart
from quadratics import one_round, scalar, two_clients


@pytest.mark.parametrize("mu", [0.001, 0.01, 0.1, 1.0])
def test_clients_solve_the_proximal_problem(mu: float) -> None:
    # argmin w/2 (x - t)^2 + mu/2 (x - x0)^2 = (w t + mu x0) / (w + mu)
    _, updates = one_round(FedProx(mu=mu), 1, scalar(2.0), two_clients())
    expected = [(1 * 1 + mu * 2) / (1 + mu), (3 * 5 + mu * 2) / (3 + mu)]
    assert [u.adapter["x"].item() for u in updates] == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_that_of_the_penalty_on_tuned_parameters() -> None:
    torch.manual_seed(0)
    tuned = {"w": nn.Parameter(torch.randn(3, 4))}
    received = {"w": torch.randn(3, 4)}
    rule = FedProxRule(mu=0.7)
    rule.begin(LocalStart(tuned, received))
    (tuned["w"] ** 3).sum().backward()
    rule.after_backward()
    other = tuned["w"].detach().clone().requires_grad_()
    ((other**3).sum() + 0.7 / 2 * (other - received["w"]).square().sum()).backward()
    torch.testing.assert_close(tuned["w"].grad, other.grad)


def test_a_parameter_the_loss_does_not_reach_is_still_held() -> None:
    tuned = {"w": nn.Parameter(torch.ones(2))}
    rule = FedProxRule(mu=0.5)
    rule.begin(LocalStart(tuned, {"w": torch.zeros(2)}))
    rule.after_backward()
    assert tuned["w"].grad is not None
    assert tuned["w"].grad.tolist() == [0.5, 0.5]


def test_mu_zero_is_fedavg_bit_for_bit() -> None:
    plain, _ = one_round(FedAvg(), 1, scalar(0.3), two_clients(steps=3))
    prox, _ = one_round(FedProx(mu=0), 1, scalar(0.3), two_clients(steps=3))
    assert torch.equal(plain["x"], prox["x"])


def test_the_optimum_is_missed_and_uniform_weighting_is_passed_on() -> None:
    # Exact solves of mu = 1 from the optimum 4: (1 + 4)/2 = 2.5 and (15 + 4)/4 = 4.75.
    clients = two_clients()
    clients[0].num_examples = 3
    weighted, _ = one_round(FedProx(mu=1.0), 1, scalar(4.0), clients)
    uniform, _ = one_round(FedProx(mu=1.0, weighting="uniform"), 1, scalar(4.0), clients)
    assert weighted["x"].item() == pytest.approx((3 * 2.5 + 4.75) / 4)
    assert uniform["x"].item() == pytest.approx((2.5 + 4.75) / 2)


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_impossible_mu_is_refused(mu: float) -> None:
    with pytest.raises(ValueError, match="mu: expected a finite number of at least 0"):
        FedProx(mu=mu)
