"""What local training promises, beside its arithmetic (see ``test_training_arithmetic.py``)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fl2ora.calibration.losses.base import Loss, LossContext
from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.calibration.stats import StatsSpec
from fl2ora.client_app.evaluation import local_evaluate
from fl2ora.client_app.tasks import build_loss
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.federated_data.images import LabelledImages
from fl2ora.strategies.client_rule import ClientRule, LocalStart

WORLD = Shapes(styles="held-back", train=48, validation=16, test=32)
DATA = WORLD.split("train")
PLAN = TrainingPlan(CrossEntropy(), client="a", seed=1, learning_rate=0.1)
PLAIN = "sgd(momentum=0.0, weight_decay=0.0)"


def classifier(method: str = "lora") -> ClipClassifier:
    return build_classifier("embedded", method, WORLD.class_names, WORLD.templates, 0)


def trained(plan: TrainingPlan, method: str = "lora") -> dict[str, Tensor]:
    return local_train(classifier(method), DATA, plan)[0].adapter


def test_the_reported_loss_is_the_mean_over_examples() -> None:
    # With a vanishing learning rate every batch sees the same model, the last one of 16 too.
    plan = replace(PLAN, batch_size=32, learning_rate=1e-30, epochs=2)
    model = classifier("lora(dropout=0.0)")
    with torch.no_grad():
        logits = model(model.preprocessing.evaluation(DATA.images[:]))
        expected = float(torch.nn.functional.cross_entropy(logits, DATA.labels))
    update, _ = local_train(model, DATA, plan)
    assert update.metrics["loss"] == pytest.approx(expected, abs=1e-5)
    assert update.metrics["steps"] == 4
    assert update.metrics.keys() == {"loss", "steps"}
    assert update.num_examples == 48


def test_equal_seeds_give_equal_results_and_others_do_not() -> None:
    plan = replace(PLAN, augmentation="crop_flip")
    first, again, other = (trained(replace(plan, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_dropout_differs_from_round_to_round() -> None:
    """One image, one step: nothing but dropout depends on the seed."""
    one, two, again = (
        local_train(classifier(), DATA.select(torch.arange(1)), replace(PLAN, seed=seed))[0].adapter
        for seed in (1, 2, 1)
    )
    assert any(not torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_the_global_random_stream_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(PLAN)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("optimiser", ["sgd(momentum=0.9)", "adamw"])
def test_no_state_of_the_optimiser_leaks_into_the_next_round(optimiser: str) -> None:
    model = classifier()
    start = model.export()
    results = []
    for _ in range(2):
        model.restore(start)
        update, _ = local_train(model, DATA, replace(PLAN, optimiser=optimiser))
        results.append(update.adapter)
    assert all(torch.equal(results[0][name], results[1][name]) for name in start)


def test_dropout_is_off_again_after_training_and_after_a_failure() -> None:
    model = classifier()
    local_train(model, DATA, PLAN)
    assert not any(module.training for module in model.modules())

    class Broken(Loss):
        def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
            assert model.training
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        local_train(model, DATA, replace(PLAN, loss=Broken()))
    assert not any(module.training for module in model.modules())


class Recording(ClientRule):
    """Pulls towards zero, and remembers what it was given."""

    start: LocalStart

    def begin(self, start: LocalStart) -> None:
        self.start = start

    def penalty(self) -> Tensor:
        total = torch.zeros(())
        for parameter in self.start.tuned.values():
            total = total + parameter.square().sum()
        return total

    def finish(self, steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {"sent": torch.tensor([float(steps)])}, {"kept": torch.ones(1)}


def test_a_rules_penalty_has_a_real_gradient() -> None:
    plan = replace(PLAN, learning_rate=0.01, optimiser=PLAIN)
    plain = trained(plan)
    pulled = trained(replace(plan, rule=Recording()))
    first = next(name for name in plain if "lora_A" in name)
    assert pulled[first].norm() < plain[first].norm()


def test_a_rule_sees_the_round_and_its_aux_and_state_pass() -> None:
    rule = Recording()
    model = classifier()
    received = model.export()
    plan = replace(
        PLAN,
        rule=rule,
        seed=9,
        optimiser="sgd(momentum=0.7, weight_decay=0.01)",
        schedule="linear",
        round=2,
        num_rounds=4,
        aux={"c": torch.ones(2)},
        state={"old": torch.ones(3)},
    )
    update, state = local_train(model, DATA, plan)
    start = rule.start
    assert (start.num_examples, start.client, start.seed) == (48, "a", 9)
    assert (start.momentum, start.weight_decay) == (0.7, 0.01)
    assert start.optimiser == plan.optimiser
    assert start.learning_rate == pytest.approx(0.1 * 0.75)
    assert start.aux.keys() == {"c"}
    assert start.state.keys() == {"old"}
    assert all(torch.equal(start.received[name], received[name]) for name in received)
    assert update.aux["sent"].item() == 2
    assert state.keys() == {"kept"}


def test_every_term_of_a_sum_is_reported_before_its_weight() -> None:
    model = classifier("lora(dropout=0.0)")
    with torch.no_grad():
        logits = model(model.preprocessing.evaluation(DATA.images[:]))
    entropy = float(torch.nn.functional.cross_entropy(logits, DATA.labels))
    one_hot = torch.nn.functional.one_hot(DATA.labels, logits.shape[1])
    brier = float((logits.softmax(1) - one_hot).square().sum(1).mean())
    plan = replace(
        PLAN,
        loss=build_loss("cross_entropy + 10*brier"),
        rule=Recording(),
        learning_rate=1e-30,
        optimiser=PLAIN,
        batch_size=20,
    )
    found = local_train(model, DATA, plan)[0].metrics
    penalty = float(sum(tensor.square().sum() for tensor in model.export().values()))
    assert found.keys() == {"loss", "loss_cross_entropy", "loss_brier", "loss_penalty", "steps"}
    assert found["loss_cross_entropy"] == pytest.approx(entropy, abs=1e-5)
    assert found["loss_brier"] == pytest.approx(brier, abs=1e-5)
    assert found["loss"] == pytest.approx(entropy + 10 * brier, abs=1e-4)
    assert found["loss_penalty"] == pytest.approx(penalty, rel=1e-5)


def test_a_lone_weighted_term_is_reported_before_its_weight_too() -> None:
    found = local_train(classifier(), DATA, replace(PLAN, loss=build_loss("3*brier")))[0].metrics
    assert found["loss"] == pytest.approx(3 * found["loss_brier"], rel=1e-5)


def test_a_methods_own_loss_is_reported_beside() -> None:
    """KgCoOp's is weight (1 - mean cosine); noise in place of words moves it away from 0."""
    model = classifier("kgcoop(weight=4.0, init='noise')")
    with torch.no_grad():
        cosines = (model.encode_classes() * model.zero_shot_classes()).sum(1)
    found = local_train(model, DATA, replace(PLAN, learning_rate=1e-30))[0].metrics
    assert found["loss_method"] == pytest.approx(4 * float(1 - cosines.mean()), abs=1e-5)
    assert found["loss_method"] > 0.01


def test_no_part_of_the_loss_is_sent_where_a_rule_withholds_it() -> None:
    rule = load("fl2ora.strategies.privacy.local_dp:LocalDPRule", ClientRule)
    plan = replace(PLAN, loss=build_loss("cross_entropy + brier"), rule=rule)
    found = local_train(classifier("kgcoop"), DATA, plan)[0].metrics
    assert found.keys() == {"loss", "steps", "releases", "epsilon"}
    assert math.isnan(found["loss"])


class NotFinite(Loss):
    """Is infinite from its second call on."""

    calls = 0

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        self.calls += 1
        return logits.sum() * (0 if self.calls == 1 else math.inf)


def test_a_loss_that_is_not_finite_stops_the_client_with_a_hint() -> None:
    plan = replace(PLAN, loss=NotFinite(), client="b", learning_rate=0.5)
    with pytest.raises(UserError, match=r"'b': the loss is -?inf at step 2; a learning-rate below"):
        local_train(classifier(), DATA, plan)


def test_no_images_are_refused() -> None:
    with pytest.raises(UserError, match="client 'a' has no training images"):
        local_train(classifier(), DATA.select(torch.arange(0)), PLAN)


def test_zero_shot_trains_nothing_and_still_answers() -> None:
    update, _ = local_train(classifier("zero_shot"), DATA, PLAN)
    assert update.adapter == {}
    assert update.metrics["loss"] > 0
    assert update.metrics["steps"] == 2


def test_evaluating_nothing_gives_the_sums_of_nothing() -> None:
    empty = LabelledImages(
        DATA.images[:0], torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    )
    stats = local_evaluate(classifier(), empty, StatsSpec())
    assert stats.num_examples == 0


def test_evaluation_does_not_depend_on_the_batch_size() -> None:
    data = WORLD.split("test")
    whole = local_evaluate(classifier(), data, StatsSpec(), batch_size=256)
    parts = local_evaluate(classifier(), data, StatsSpec(), batch_size=7)
    assert whole.num_examples == parts.num_examples == 32
    assert float(whole.nll) == pytest.approx(float(parts.nll), rel=1e-5)
