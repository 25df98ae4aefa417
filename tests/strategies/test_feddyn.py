"""Numbers: alpha = 0.1, exact local solves, x0 = 0; a client's solution from x with its g is

    x_k = (w t + g + alpha x) / (w + alpha);  g -= alpha (x_k - x)

round 1: (1.1/1.1 -> 1/1.1, 15/3.1) = (.909091, 4.838710), h = -.05 (5.747801) = -.287390, and
x = 2.873900 + 2.873900 = 5.747801.
"""

from __future__ import annotations

import pytest
import torch

from fl2ora.clip_tuning.adapter import AdapterError
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.averaging.feddyn import FedDyn, FedDynRule
from fl2ora.strategies.client_rule import ClientRule, LocalStart
from fl2ora.strategies.toy_clients import ToyClient
from planned import begun
from quadratics import one_round, play, scalar, two_clients


def dynamic(**kwargs: float) -> FedDyn:
    strategy = FedDyn(**{"alpha": 0.1, "clip": 0.0, **kwargs})  # type: ignore[arg-type]
    return begun(strategy, "ab", scalar(0.0))


def test_two_rounds_by_hand() -> None:
    strategy, clients = dynamic(), two_clients()
    first, updates = one_round(strategy, 1, scalar(0.0), clients)
    assert [u.adapter["x"].item() for u in updates] == pytest.approx([0.909091, 4.838710], abs=2e-6)
    assert [c.state["x"].item() for c in clients] == pytest.approx([-0.0909091, -0.4838710])
    assert strategy.state()["h/x"].item() == pytest.approx(-0.287390, abs=1e-6)
    assert first["x"].item() == pytest.approx(5.747801, abs=5e-6)
    second, _ = one_round(strategy, 2, first, clients)
    assert second["x"].item() == pytest.approx(3.343109, abs=2e-5)


def test_feddyn_reaches_the_optimum_where_fedavg_does_not() -> None:
    assert play(dynamic(alpha=1.0), 25, two_clients()) == pytest.approx(4.0, abs=1e-3)
    assert play(FedAvg(), 3, two_clients()) == pytest.approx(3.0, abs=1e-4)


def test_feddyn_reaches_the_optimum_with_one_client_a_round() -> None:
    strategy, clients, current = dynamic(alpha=1.0), two_clients(), scalar(0.0)
    for server_round in range(1, 61):
        current, _ = one_round(strategy, server_round, current, [clients[server_round % 2]])
    assert current["x"].item() == pytest.approx(4.0, abs=1e-3)


def test_the_server_counts_all_clients() -> None:
    strategy = begun(dynamic(), "abcdefghij", scalar(0.0))
    current, updates = one_round(strategy, 1, scalar(0.0), two_clients())
    solved = [u.adapter["x"].item() for u in updates]
    assert strategy.state()["h/x"].item() == pytest.approx(-0.1 / 10 * sum(solved))
    assert current["x"].item() == pytest.approx(sum(solved) / 2 + sum(solved) / 10)


def test_clients_count_the_same_whatever_their_size() -> None:
    clients = two_clients()
    clients[0].num_examples = 1000
    assert one_round(dynamic(), 1, scalar(0.0), clients)[0]["x"].item() == pytest.approx(
        5.747801, abs=5e-6
    )


def test_a_lost_reply_shifts_the_optimum_as_documented() -> None:
    # At the fixed point h = 0 while the g_k, which are the gradients there, add up to
    # -alpha (lost change): 4 x - 16 = -alpha (lost change).
    strategy, clients = dynamic(alpha=1.0), two_clients()
    current, updates = one_round(strategy, 1, scalar(0.0), clients, lost=["b"])
    lost = updates[1].adapter["x"].item()
    for server_round in range(2, 30):
        current, _ = one_round(strategy, server_round, current, clients)
    assert current["x"].item() == pytest.approx(4.0 - 1.0 * lost / 4, abs=1e-3)


def test_warm_up_is_fedavg_and_leaves_no_trace() -> None:
    warm, plain = dynamic(warmup=2), FedAvg(weighting="uniform")
    clients, others = two_clients(), two_clients()
    current = other = scalar(0.0)
    for server_round in (1, 2):
        current, _ = one_round(warm, server_round, current, clients)
        other, _ = one_round(plain, server_round, other, others)
    assert torch.equal(current["x"], other["x"])
    assert not warm.state()
    assert not clients[0].state
    fresh = dynamic()
    third, _ = one_round(warm, 3, current, clients)
    first, _ = one_round(fresh, 1, other, others)
    assert torch.equal(third["x"], first["x"])


def test_warm_up_does_not_change_the_limit() -> None:
    assert play(dynamic(alpha=1.0, warmup=3), 28, two_clients()) == pytest.approx(4.0, abs=1e-3)


def test_alpha_zero_is_uniform_fedavg_and_small_alpha_trains_like_it() -> None:
    plain, honest = one_round(FedAvg(weighting="uniform"), 1, scalar(0.0), two_clients(steps=5))
    zero, _ = one_round(dynamic(alpha=0), 1, scalar(0.0), two_clients(steps=5))
    assert torch.equal(zero["x"], plain["x"])
    _, small = one_round(dynamic(alpha=1e-7), 1, scalar(0.0), two_clients(steps=5))
    for update, other in zip(small, honest, strict=True):
        assert update.adapter["x"].item() == pytest.approx(other.adapter["x"].item(), rel=1e-6)


def test_alpha_by_size_weighs_the_objective() -> None:
    # alpha n/n_k makes it sum_k n_k L_k: with n = (3, 1), (3 (1) + 3 (5)) / (3 + 3) = 3.
    clients = two_clients()
    clients[0].num_examples, clients[1].num_examples = 3, 1
    strategy = dynamic(alpha=1.0, mean_examples=2.0)
    assert play(strategy, 25, clients) == pytest.approx(3.0, abs=1e-3)
    rule = FedDynRule(alpha=0.1, mean_examples=2.0)
    rule.begin(LocalStart({}, {}, num_examples=3))
    assert rule._own_alpha == pytest.approx(0.1 * 2 / 3)


def test_the_whole_gradient_is_clipped() -> None:
    # From 0, the gradient of 3/2 (x - 5)^2 is -15: one step of 0.1 goes 0.1 * 10 instead of 1.5.
    steep = two_clients(steps=1, learning_rate=0.1)[1:]
    _, free = one_round(dynamic(clip=0), 1, scalar(0.0), steep)
    _, held = one_round(dynamic(clip=10.0), 1, scalar(0.0), steep)
    assert free[0].adapter["x"].item() == pytest.approx(1.5)
    assert held[0].adapter["x"].item() == pytest.approx(1.0)


def test_a_client_that_diverges_keeps_its_state() -> None:
    client = ToyClient("a", scalar(1.0), weight=1e30, steps=5, learning_rate=1.0)
    client.state = scalar(0.25)
    with pytest.raises(AdapterError, match="g_k: x has 1 of 1 values not finite"):
        client.train(scalar(0.0), FedDynRule(alpha=0.1, clip=0), {})
    assert client.state["x"].item() == 0.25


def test_the_rule_travels_with_its_arguments() -> None:
    strategy = FedDyn(alpha=1e-5, mean_examples=64.0, clip=0)
    plan = strategy.plan(1, scalar(0.0), "ab")
    assert plan.rule == "feddyn(alpha=1e-05, mean_examples=64.0, clip=0)"
    assert isinstance(strategy._rule, ClientRule)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"alpha": -1}, "alpha"), ({"warmup": -1}, "warmup"), ({"clip": float("nan")}, "clip")],
)
def test_impossible_arguments_are_refused(kwargs: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}: expected"):
        FedDyn(**kwargs)  # type: ignore[arg-type]
