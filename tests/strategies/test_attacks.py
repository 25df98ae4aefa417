"""Simulated attacks do what they say, to whom they say, and the record shows it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fl2ora.strategies.attacks
from fl2ora.calibration.losses.base import LossContext
from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.lora import LoRA
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available, load
from fl2ora.federated_data.images import LabelledImages
from fl2ora.strategies._wrapping import Wrapping
from fl2ora.strategies.attacks.attacked import Attacked, AttackedRule
from fl2ora.strategies.attacks.base import Attack
from fl2ora.strategies.attacks.label_flip import LabelFlip
from fl2ora.strategies.attacks.logit_scaling import LogitScaling
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.client_rule import ClientRule
from fl2ora.strategies.toy_clients import ToyClient
from planned import begun
from quadratics import one_round, scalar, two_clients
from runs import events, run_small


def test_each_attack_file_holds_one_attack() -> None:
    names = ["label_flip", "logit_scaling", "scaling", "sign_flip"]
    assert available(Attack) == names
    folder = Path(fl2ora.strategies.attacks.__path__[0])
    others = ["attacked", "base"]
    assert sorted(path.stem for path in folder.glob("[a-z]*.py")) == sorted(names + others)


@pytest.mark.parametrize(
    ("attack", "factor"),
    [("sign_flip", -1), ("sign_flip(factor=2)", -2), ("scaling", 10), ("scaling(factor=0.5)", 0.5)],
)
def test_the_change_of_the_attacker_alone_is_multiplied(attack: str, factor: float) -> None:
    _, honest = one_round(Attacked(clients=""), 1, scalar(1.0), two_clients(steps=2))
    strategy = Attacked(clients="b", attack=attack)
    _, updates = one_round(strategy, 1, scalar(1.0), two_clients(steps=2))
    assert torch.equal(updates[0].adapter["x"], honest[0].adapter["x"])
    change = honest[1].adapter["x"].item() - 1
    assert updates[1].adapter["x"].item() == pytest.approx(1 + factor * change)
    assert [u.metrics["attack"] for u in updates] == [0.0, 1.0]
    assert [u.metrics["attack"] for u in honest] == [0.0, 0.0]


def test_flipped_labels_are_those_of_the_opposite_class() -> None:
    assert LabelFlip().labels(torch.tensor([0, 1, 4]), 5).tolist() == [4, 3, 0]


def test_scaled_logits_pull_towards_overconfidence() -> None:
    # 70 of 100 labels are class 0: the calibrated gap of two logits is log(.7/.3); who trains with
    # a tenth of the logits ends at ten times that.
    labels = torch.tensor([0] * 70 + [1] * 30)
    gaps = {}
    for factor in (1.0, 0.1):
        gap = nn.Parameter(torch.zeros(()))
        rule = LogitScaling(factor=factor)
        optimiser = torch.optim.LBFGS([gap], max_iter=100, line_search_fn="strong_wolfe")

        def closure(
            gap: nn.Parameter = gap,
            rule: LogitScaling = rule,
            optimiser: torch.optim.LBFGS = optimiser,
        ) -> Tensor:
            optimiser.zero_grad()
            logits = torch.stack([gap, torch.zeros(())]).expand(100, 2)
            loss = cross_entropy(rule.logits(logits), labels)
            loss.backward()
            return loss

        optimiser.step(closure)
        gaps[factor] = gap.item()
    assert gaps[1.0] == pytest.approx(0.8472979, rel=1e-3)
    assert gaps[0.1] == pytest.approx(8.472979, rel=1e-3)


def test_the_inner_rules_state_and_aux_stay_honest() -> None:
    honest, attacker = two_clients(2, 0.1), two_clients(2, 0.1)
    _, expected = one_round(
        begun(load("scaffold", Strategy), "ab", scalar(0.0)), 1, scalar(0.0), honest
    )
    attacked = Attacked(inner="scaffold", clients="a,b", attack="sign_flip")
    strategy = begun(attacked, "ab", scalar(0.0))
    _, updates = one_round(strategy, 1, scalar(0.0), attacker)
    for one, other, left, right in zip(expected, updates, honest, attacker, strict=True):
        assert torch.equal(one.aux["distance"], other.aux["distance"])
        assert torch.equal(left.state["x"], right.state["x"])
        assert one.adapter["x"].item() == pytest.approx(-other.adapter["x"].item())


class Pull(Attack):
    """A penalty, a gradient and a metric, to see them pass."""

    def penalty(self) -> Tensor:
        return torch.tensor(2.0)

    def metrics(self) -> dict[str, float]:
        return {"pull": 3.0}


def test_every_hook_of_both_rules_is_called() -> None:
    rule = AttackedRule(inner="attacked(clients='x')", clients="a", attack=f"{__name__}:Pull")
    rule.begin(ToyClient("a", scalar(0.0)).start({}))
    assert float(rule.penalty() or 0) == 2.0
    assert rule.metrics() == {"pull": 3.0, "attack": 1.0}
    public = [
        name for name, _ in inspect.getmembers(ClientRule, inspect.isfunction) if name[0] != "_"
    ]
    assert len(public) >= 7
    public.remove("personal")  # asked of the inner strategy's own rule, by its personal_rule
    assert all(name in vars(AttackedRule) for name in public)


def test_the_wrapper_hands_on_every_hook_of_a_strategy() -> None:
    hooks = {
        name
        for name, member in vars(Strategy).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }
    assert len(hooks) == 11
    assert hooks <= vars(Attacked).keys() | vars(Wrapping).keys()


def test_run_and_round_reach_the_inner_strategy() -> None:
    strategy = begun(Attacked(inner="feddyn(warmup=3)", clients="b"), "abc", scalar(0.0))
    assert strategy.inner.run.clients == ("a", "b", "c")
    assert "inner=''" in strategy.plan(3, scalar(0.0), "ab").rule
    plan = strategy.plan(4, scalar(0.0), "ab")
    assert "feddyn(alpha=0.01" in plan.rule
    assert plan.clients == ("a", "b")


def test_attackers_that_are_no_clients_are_refused() -> None:
    strategy = Attacked(clients="b, x, site-9")
    with pytest.raises(
        UserError, match=r"keys of the run's 2 clients, such as 'a', found site-9, x"
    ):
        begun(strategy, "ab", scalar(0.0))


@pytest.mark.parametrize("between", ["{}", "local_dp(inner={!r})"])
def test_an_attack_within_an_attack_is_refused(between: str) -> None:
    inner = between.format("attacked(clients='1')")
    with pytest.raises(UserError, match="inner: expected a strategy without attackers"):
        load(f"attacked(inner={inner!r})", Strategy)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"inner": "fedavgg"}, "strategies has no 'fedavgg'"),
        ({"attack": "sign_flop"}, "did you mean 'sign_flip'"),
        ({"attack": "sign_flip(factor=0)"}, "factor: expected"),
        ({"attack": "logit_scaling(factor=-1)"}, "factor: expected"),
    ],
)
def test_mistakes_are_found_on_the_server(kwargs: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Attacked(**kwargs)


def test_the_trainer_asks_for_labels_and_logits(
    tiny_clip: Clip, random_images: Callable[..., LabelledImages]
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Watches(CrossEntropy):
        def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
            seen.append((logits.detach(), labels))
            return super().__call__(logits, labels, context)

    images = random_images(6)
    classifier = LoRA(dropout=0.0).attach(tiny_clip, ["cat", "dog", "owl"], ["a {}"])
    for attack in ("label_flip", "logit_scaling(factor=0.5)", "scaling"):
        rule = AttackedRule(clients="me", attack=attack)
        plan = TrainingPlan(Watches(), rule, learning_rate=1e-6, batch_size=6, client="me", seed=1)
        local_train(classifier, images, plan)
    flipped, scaled, plain = seen
    assert torch.equal(flipped[1], 2 - plain[1])
    torch.testing.assert_close(scaled[0], 0.5 * plain[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(flipped[0], plain[0], rtol=1e-3, atol=1e-3)


def test_attacking_clients_are_recorded(tmp_path: Path) -> None:
    spec = "attacked(inner='median', clients='1', attack='label_flip')"
    folder = run_small(tmp_path, num_rounds=1, strategy=spec)
    assert {e["client"]: e["attack"] for e in events(folder, "client")} == {"0": 0, "1": 1, "2": 0}
    assert events(folder, "start")[0]["config"]["strategy"] == spec


def test_a_wrapped_strategy_keeps_its_demands_on_the_clients() -> None:
    assert Attacked(inner="scaffold").needs_plain_sgd
    assert not Attacked(inner="fedavg").needs_plain_sgd
    assert Attacked(inner="flora").needs_residual
    with pytest.raises(UserError, match="'fednova': optimiser: expected 'sgd'"):
        Attacked(inner="fednova").accepts("adamw", "constant")
