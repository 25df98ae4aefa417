"""What a node does when asked, without messages: by the run's keys, and on the right images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.client_app import tasks
from fl2ora.client_app.node import Node
from fl2ora.client_app.state import ClientState
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.prediction import predict
from fl2ora.experiment.config import RunConfig, Value
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.images import LabelledImages
from fl2ora.messages.calibrate import CalibrateTask
from fl2ora.messages.evaluate import TEST, VALIDATION, EvaluateTask
from fl2ora.messages.train import TrainTask

RUN: dict[str, Value] = {
    "dataset": "shapes(styles='held-back', train=96, validation=16, test=16)",
    "partition": "iid",
    "learning-rate": 0.3,
    "calibration-fraction": 0.3,
    "seed": 3,
}


def node(index: int = 0, **settings: Value) -> Node:
    keys = {name.replace("_", "-"): value for name, value in settings.items()}
    config = RunConfig.from_flat({**RUN, **keys}).flat()
    return Node.from_configs(config, {"partition-id": index, "num-partitions": 2}, index + 1)


def memory() -> ClientState:
    return ClientState(Context(1, 1, {}, RecordDict(), {}), "0")


def fresh_adapter(one: Node) -> Adapter:
    """Return an adapter away from the one that all start with."""
    rng = torch.Generator().manual_seed(2)
    start = one.classifier().export()
    return {n: 0.3 * torch.randn(t.shape, generator=rng) for n, t in start.items()}


def sums(one: Node, adapter: Adapter, data: LabelledImages, spec: StatsSpec) -> CalibrationStats:
    classifier = one.classifier()
    classifier.restore(adapter)
    return CalibrationStats.from_logits(predict(classifier, data.images), data.labels, spec)


def plan_of(monkeypatch: pytest.MonkeyPatch, one: Node, task: TrainTask) -> TrainingPlan:
    """Return the plan that a node makes of its config and a task; nothing is trained."""

    class PlannedError(Exception):
        pass

    plans: list[TrainingPlan] = []

    def keep(classifier: Any, data: Any, plan: TrainingPlan, **_: Any) -> None:
        plans.append(plan)
        raise PlannedError

    monkeypatch.setattr(tasks, "local_train", keep)
    with pytest.raises(PlannedError):
        tasks.train(one, memory(), task)
    return plans[0]


def test_every_training_key_of_the_config_is_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {
        "loss": "focal",
        "batch_size": 7,
        "accumulate": 3,
        "learning_rate": 0.125,
        "optimiser": "sgd(momentum=0.3, weight_decay=0.02)",
        "schedule": "cosine",
        "gradient_clip": 0.75,
        "augmentation": "flip",
        "precision": "bfloat16",
    }
    default = RunConfig()
    assert all(getattr(default, name) != value for name, value in settings.items())
    one = node(local_epochs=5, **settings)
    task = TrainTask(one.classifier().export(), {"c": torch.ones(1)}, "fedprox(mu=0.5)", 4, 9)
    plan = plan_of(monkeypatch, one, task)
    assert type(plan.loss).__name__ == "Focal"
    assert type(plan.rule).__name__ == "FedProxRule"
    assert {n: getattr(plan, n) for n in settings if n != "loss"} == {
        n: v for n, v in settings.items() if n != "loss"
    }
    assert (plan.epochs, plan.round, plan.num_rounds, plan.client) == (5, 4, 9, "0")
    assert plan.aux.keys() == {"c"}


def test_a_clients_seed_differs_by_run_client_and_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def seed_of(one: Node, number: int) -> int:
        return plan_of(monkeypatch, one, TrainTask(one.classifier().export(), round=number)).seed

    seeds = [
        seed_of(node(index, seed=seed), number)
        for index, seed, number in ((0, 3, 1), (1, 3, 1), (0, 4, 1), (0, 3, 2), (0, 3, 1))
    ]
    assert seeds[0] == seeds[4]
    assert len(set(seeds)) == 4


def test_training_starts_from_the_adapter_that_was_received() -> None:
    """A vanishing step leaves it as it is, whatever the process's classifier held before."""
    one = node(learning_rate=1e-30, optimiser="sgd(momentum=0.0, weight_decay=0.0)")
    sent = fresh_adapter(one)
    one.classifier().restore({n: t + 1 for n, t in sent.items()})
    update = tasks.train(one, memory(), TrainTask(sent))
    assert all(torch.equal(update.adapter[name], tensor) for name, tensor in sent.items())


def test_nucfl_keeps_the_received_adapter_for_the_next_round() -> None:
    one, kept = node(loss="cross_entropy + nucfl"), memory()
    sent = fresh_adapter(one)
    tasks.train(one, kept, TrainTask(sent))
    found = kept.load(2)["received"]
    assert found.keys() == sent.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in sent.items())


def test_other_losses_keep_no_adapter() -> None:
    one, kept = node(), memory()
    tasks.train(one, kept, TrainTask(fresh_adapter(one)))
    assert kept.load(2) == {}


def test_a_failed_training_keeps_nothing() -> None:
    one, kept = node(loss="cross_entropy + nucfl"), memory()
    broken = {name: tensor * 1e30 for name, tensor in fresh_adapter(one).items()}
    with pytest.raises(UserError, match="the loss is nan"):
        tasks.train(one, kept, TrainTask(broken))
    assert kept.load(2) == {}


@pytest.mark.parametrize("num_bins", [4, 15])
def test_a_node_measures_in_the_bins_of_the_run(num_bins: int) -> None:
    one = node(num_bins=num_bins, metrics="accuracy + ece")
    sent = fresh_adapter(one)
    found = tasks.evaluate(one, memory(), EvaluateTask(sent, 1)).sums[TEST]
    expected = sums(one, sent, one.data.test, found.spec)
    assert found.spec.num_bins == num_bins
    assert found.count.tolist() == expected.count.tolist()
    assert found.correct.tolist() == expected.correct.tolist()


def test_each_part_is_measured_on_its_own_images() -> None:
    one = node()
    sent = fresh_adapter(one)
    found = tasks.evaluate(one, memory(), EvaluateTask(sent, 1, (TEST, VALIDATION))).sums
    assert len(one.data.test) != len(one.data.calibration)
    for part, data in ((TEST, one.data.test), (VALIDATION, one.data.calibration)):
        expected = sums(one, sent, data, found[part].spec)
        assert found[part].num_examples == len(data)
        assert float(found[part].nll) == pytest.approx(float(expected.nll), rel=1e-5)


def test_round_0_measures_plain_clip_and_not_a_start_that_differs_from_it() -> None:
    """Context vectors that start as noise do not start at zero-shot."""
    one = node(method="kgcoop(init='noise')")
    zero = tasks.evaluate(one, memory(), EvaluateTask({}, 0)).sums[TEST]
    start = tasks.evaluate(one, memory(), EvaluateTask(one.classifier().export(), 1)).sums[TEST]
    logits = predict(one.zero_shot_classifier(), one.data.test.images)
    plain = CalibrationStats.from_logits(logits, one.data.test.labels, zero.spec)
    assert float(zero.nll) == pytest.approx(float(plain.nll), rel=1e-6)
    assert float(start.nll) != pytest.approx(float(plain.nll), rel=1e-2)


@pytest.mark.parametrize("what", ["evaluate", "calibrate"])
def test_the_adapter_of_the_message_is_what_is_measured(what: str) -> None:
    """In one process, all clients train the same classifier: it may hold anything."""
    one = node()
    sent = fresh_adapter(one)

    def ask() -> dict[str, list[float]]:
        if what == "evaluate":
            found = tasks.evaluate(one, memory(), EvaluateTask(sent, 1)).sums[TEST]
            return {n: a.ravel().tolist() for n, a in found.to_arrays().items()}
        start = load("temperature", Calibrator).start(len(one.federation.class_names))
        task = CalibrateTask(sent, "temperature", start.parameters)
        return {n: t.ravel().tolist() for n, t in tasks.calibrate(one, task).items()}

    one.classifier().restore(sent)
    expected = ask()
    one.classifier().restore({n: t + 0.5 for n, t in sent.items()})
    assert ask() == expected


def test_a_node_has_its_images_by_the_runs_seed() -> None:
    images = [node(seed=seed).data.train.images[:] for seed in (3, 4, 3)]
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
    # The division within the share follows the seed too, whatever the shares are.
    same = replace(node(), partition=None)
    other = replace(node(seed=4), partition=None)
    assert not torch.equal(same.data.test.images[:], other.data.test.images[:])


@pytest.mark.parametrize("index", [-1, 2])
def test_a_share_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(UserError, match=rf"partition-id.*, found {index}"):
        _ = node(index).data


def test_a_node_may_say_where_it_computes() -> None:
    run = RunConfig.from_flat(RUN).flat()
    own = {"partition-id": 0, "num-partitions": 1, "device": "cuda:7"}
    assert Node.from_configs(run, own, 1).config.device == "cuda:7"
    assert Node.from_configs(run, {**own, "device": "cpu"}, 1).device == torch.device("cpu")
