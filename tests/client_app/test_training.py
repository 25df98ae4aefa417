from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fl2ora.calibration.losses.base import Loss, LossContext
from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.calibration.stats import StatsSpec
from fl2ora.client_app.evaluation import local_evaluate
from fl2ora.client_app.training import LocalTrainer, TrainingSettings
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.federated_data.images import LabelledImages
from fl2ora.strategies.client_rule import ClientRule, LocalStart

WORLD = Shapes(styles="held-back", train=48, validation=16, test=32)
DATA = WORLD.split("train")


def classifier(method: str = "lora") -> ClipClassifier:
    return build_classifier("embedded", method, WORLD.class_names, WORLD.templates, 0)


def trained(settings: TrainingSettings, seed: int = 1, **parts: object) -> dict[str, Tensor]:
    model = classifier()
    rule = parts.get("rule")
    assert rule is None or isinstance(rule, ClientRule)
    trainer = LocalTrainer(model, settings, CrossEntropy(), rule)
    update, _ = trainer.run(DATA, client="a", seed=seed)
    return update.adapter


def test_one_plain_step_is_sgd_by_hand() -> None:
    # One full batch, no dropout, no momentum: theta - lr * (grad + wd * theta).
    settings = TrainingSettings(batch_size=48, learning_rate=0.5, momentum=0, weight_decay=0.01)
    model = classifier("lora(dropout=0.0)")
    start = model.export()
    pixels = model.preprocessing.evaluation(DATA.images)
    torch.nn.functional.cross_entropy(model(pixels), DATA.labels).backward()
    expected = {
        name: start[name] - 0.5 * (p.grad + 0.01 * start[name])
        for name, p in model.tuned.items()
        if p.grad is not None
    }
    fresh = classifier("lora(dropout=0.0)")
    update, _ = LocalTrainer(fresh, settings, CrossEntropy()).run(DATA, client="a", seed=0)
    assert expected.keys() == update.adapter.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(update.adapter[name], tensor, rtol=0, atol=1e-6)
    assert update.num_examples == 48
    assert update.metrics["steps"] == 1


def test_the_reported_loss_is_the_mean_over_examples() -> None:
    # With a vanishing learning rate every batch sees the same model, the last one of 16 too.
    settings = TrainingSettings(batch_size=32, learning_rate=1e-30, epochs=2)
    model = classifier("lora(dropout=0.0)")
    with torch.no_grad():
        logits = model(model.preprocessing.evaluation(DATA.images))
        expected = float(torch.nn.functional.cross_entropy(logits, DATA.labels))
    update, _ = LocalTrainer(model, settings, CrossEntropy()).run(DATA, client="a", seed=0)
    assert update.metrics["loss"] == pytest.approx(expected, abs=1e-5)
    assert update.metrics["steps"] == 4


def test_equal_seeds_give_equal_results_and_others_do_not() -> None:
    settings = TrainingSettings(learning_rate=0.1, augmentation="crop_flip")
    first, again, other = (trained(settings, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_global_random_stream_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(TrainingSettings(learning_rate=0.1))
    assert torch.equal(torch.rand(3), expected)


def test_momentum_does_not_leak_into_the_next_round() -> None:
    settings = TrainingSettings(learning_rate=0.1)
    model = classifier()
    start = model.export()
    results = []
    for _ in range(2):
        model.restore(start)
        update, _ = LocalTrainer(model, settings, CrossEntropy()).run(DATA, client="a", seed=1)
        results.append(update.adapter)
    assert all(torch.equal(results[0][name], results[1][name]) for name in start)


def test_dropout_is_off_again_after_training_and_after_a_failure() -> None:
    model = classifier()
    LocalTrainer(model, TrainingSettings(), CrossEntropy()).run(DATA, client="a", seed=1)
    assert not any(module.training for module in model.modules())

    class Broken(Loss):
        def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        LocalTrainer(model, TrainingSettings(), Broken()).run(DATA, client="a", seed=1)
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
    settings = TrainingSettings(learning_rate=0.01, momentum=0, weight_decay=0)
    plain = trained(settings)
    pulled = trained(settings, rule=Recording())
    first = next(name for name in plain if "lora_A" in name)
    assert pulled[first].norm() < plain[first].norm()


def test_a_rule_sees_the_round_and_its_aux_and_state_pass() -> None:
    rule = Recording()
    model = classifier()
    received = model.export()
    trainer = LocalTrainer(model, TrainingSettings(learning_rate=0.01), CrossEntropy(), rule)
    update, state = trainer.run(
        DATA, client="a", seed=9, aux={"c": torch.ones(2)}, state={"old": torch.ones(3)}
    )
    assert rule.start.num_examples == 48
    assert (rule.start.learning_rate, rule.start.momentum, rule.start.seed) == (0.01, 0.9, 9)
    assert rule.start.aux.keys() == {"c"}
    assert rule.start.state.keys() == {"old"}
    assert all(torch.equal(rule.start.received[name], received[name]) for name in received)
    assert update.aux["sent"].item() == 2
    assert state.keys() == {"kept"}


class NotFinite(Loss):
    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        return logits.sum() * math.nan


def test_a_loss_that_is_not_finite_stops_the_client_with_a_hint() -> None:
    trainer = LocalTrainer(classifier(), TrainingSettings(learning_rate=0.5), NotFinite())
    with pytest.raises(UserError, match=r"client 'b': the loss is nan at step 1; a learning-rate"):
        trainer.run(DATA, client="b", seed=0)


def test_no_images_are_refused() -> None:
    trainer = LocalTrainer(classifier(), TrainingSettings(), CrossEntropy())
    with pytest.raises(UserError, match="client 'c' has no training images"):
        trainer.run(DATA.select(torch.arange(0)), client="c", seed=0)


def test_zero_shot_trains_nothing_and_still_answers() -> None:
    model = classifier("zero_shot")
    update, _ = LocalTrainer(model, TrainingSettings(), CrossEntropy()).run(
        DATA, client="a", seed=0
    )
    assert update.adapter == {}
    assert update.metrics["loss"] > 0


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
