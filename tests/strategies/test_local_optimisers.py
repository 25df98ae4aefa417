"""Strategies whose client half is defined for SGD refuse what it would miscount."""

from __future__ import annotations

import pytest
import torch

from fl2ora.clip_tuning.schedules.base import Progress, Schedule
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import ConfigError, UserError
from fl2ora.experiment.plugins import available, load
from fl2ora.server_app.run_plugins import build_plugins
from fl2ora.strategies.averaging.fednova import FedNovaRule
from fl2ora.strategies.averaging.scaffold import SCAFFOLDRule
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.client_rule import ClientRule, LocalStart
from fl2ora.strategies.toy_clients import ToyClient
from quadratics import scalar

ANY = ("adamw", "cosine(per='step')")
PLAIN, MOMENTUM = "sgd(momentum=0.0)", "sgd(momentum=0.9)"


class Silent(Schedule):
    """Says nothing of the steps of a round, as a class from outside may."""

    def factor(self, at: Progress) -> float:
        return 1.0


class Promising(Silent):
    """Promises one learning rate for all steps of a round."""

    within_round = False


@pytest.mark.parametrize("name", sorted({*available(Strategy)} - {"scaffold", "fednova"}))
def test_all_others_take_any_optimiser_and_schedule(name: str) -> None:
    load(name, Strategy).accepts(*ANY)


@pytest.mark.parametrize(
    ("spec", "optimiser", "schedule"),
    [
        ("scaffold", PLAIN, "constant"),
        ("scaffold", "sgd(0.0, weight_decay=0.1)", "step(every=5)"),
        ("scaffold", "sgd(momentum=0)", "cosine(per='round', warm_up=0.1)"),
        ("scaffold", PLAIN, "test_local_optimisers:Promising()"),
        ("scaffold", PLAIN, "constant(per='step')"),
        ("scaffold", PLAIN, "constant(warm_up=0.1)"),
        ("scaffold", PLAIN, "cosine"),
        ("fednova", PLAIN, "constant"),
        ("fednova", MOMENTUM, "linear(per='round')"),
        ("fednova", "sgd", "constant"),
        ("fednova(mu=0.1)", PLAIN, "constant"),
        ("attacked(inner='fednova')", MOMENTUM, "constant"),
    ],
)
def test_plain_sgd_is_accepted(spec: str, optimiser: str, schedule: str) -> None:
    load(spec, Strategy).accepts(optimiser, schedule)


@pytest.mark.parametrize(
    ("spec", "optimiser", "schedule", "message"),
    [
        ("scaffold", MOMENTUM, "constant", r"expected 'sgd\(momentum=0.0\)'.* found momentum 0\.9"),
        ("scaffold", "sgd(0.5)", "constant", r"found momentum 0\.5"),
        ("scaffold", "sgd", "constant", r"found momentum 0\.9"),
        ("scaffold", "adamw", "constant", "'scaffold': optimiser: .*found 'adamw'"),
        ("scaffold", "torch.optim:SGD()", "constant", "found 'torch.optim:SGD"),
        ("scaffold", PLAIN, "cosine(per='step')", "'scaffold': schedule: .*found .cosine"),
        ("scaffold", PLAIN, "linear('step')", "schedule: expected a learning rate that is"),
        ("scaffold", PLAIN, "constant(0.1, 'step')", "schedule: expected"),
        ("scaffold", PLAIN, "test_local_optimisers:Silent()", "schedule: expected"),
        ("fednova", "adamw(beta1=0.8)", "constant", "'fednova': optimiser: expected 'sgd'"),
        ("fednova", "sgd(momentum=0.9, nesterov=True)", "constant", "nesterov"),
        ("fednova", MOMENTUM, "linear(per='step')", "'fednova': schedule"),
        ("fednova(mu=0.1)", MOMENTUM, "constant", r"'sgd\(momentum=0.0\)'.*found momentum 0\.9"),
        ("local_dp(inner='scaffold')", MOMENTUM, "constant", "'scaffold': optimiser"),
    ],
)
def test_unsuitable_optimiser_is_refused_before_training(
    spec: str, optimiser: str, schedule: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(spec, Strategy).accepts(optimiser, schedule)


@pytest.mark.parametrize(
    ("rule", "optimiser", "momentum"),
    [
        (SCAFFOLDRule(), MOMENTUM, 0.9),
        (SCAFFOLDRule(), "adamw", 0.0),
        (FedNovaRule(), "adamw", 0.0),
        (FedNovaRule(), "sgd(nesterov=True)", 0.9),
        (FedNovaRule(mu=0.1), MOMENTUM, 0.9),
    ],
)
def test_client_rule_refuses_unsuitable_optimiser(
    rule: ClientRule, optimiser: str, momentum: float
) -> None:
    start = LocalStart({}, {}, learning_rate=0.1, momentum=momentum, optimiser=optimiser)
    with pytest.raises(UserError, match="optimiser: expected 'sgd"):
        rule.begin(start)


def test_a_client_with_momentum_is_not_counted_too_short_beside_mu() -> None:
    """Both together would be divided by a length that counts every step twice."""
    client = ToyClient("a", scalar(1.0), steps=3, momentum=0.9)
    with pytest.raises(UserError, match=r"'fednova': optimiser: .* found momentum 0\.9"):
        client.train(scalar(0.0), FedNovaRule(mu=0.1), {})
    alone = client.train(scalar(0.0), FedNovaRule(), {})
    assert torch.isfinite(alone.aux["normaliser"])


@pytest.mark.parametrize("spec", ["scaffold", "attacked(inner='scaffold')"])
def test_variates_of_gradients_cut_short_are_refused(spec: str) -> None:
    load(spec, Strategy).accepts(PLAIN, "constant", 0.0)
    with pytest.raises(UserError, match=r"'scaffold': gradient-clip: expected 0, .*found 0\.5"):
        load(spec, Strategy).accepts(PLAIN, "constant", 0.5)
    config = {"strategy": spec, "optimiser": PLAIN, "gradient-clip": 0.5}
    with pytest.raises(ConfigError, match="gradient-clip: expected 0"):
        build_plugins(RunConfig.from_flat(config))


@pytest.mark.parametrize("name", sorted({*available(Strategy)} - {"scaffold"}))
def test_all_others_take_clipped_gradients(name: str) -> None:
    load(name, Strategy).accepts(PLAIN, "constant", 0.5)


def test_needs_plain_sgd_of_every_strategy() -> None:
    specs = ("scaffold", "fednova(mu=0.1)", "attacked(inner='scaffold')")
    assert all(load(spec, Strategy).needs_plain_sgd for spec in specs)
    others = ("fedavg", "fednova", "feddyn", "attacked(inner='fednova')")
    assert not any(load(spec, Strategy).needs_plain_sgd for spec in others)
