"""Measuring on the server: the right model, the right images, the sizes of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.prediction import predict
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.shares import divide, load_federation, share_out
from fl2ora.messages.evaluate import PERSONAL, TEST, VALIDATION, EvaluateTask
from fl2ora.messages.hello import NodeInfo
from fl2ora.server_app.evaluation import Evaluation

SETTINGS: dict[str, Any] = {
    "dataset": "shapes(styles='held-back', train=96, validation=16, test=32)",
    "partition": "iid",
    "calibration-fraction": 0.3,
    "resamples": 0,
    "seed": 3,
}
NOISE = "kgcoop(init='noise')"  # does not start at zero-shot
FEDERATION = load_federation(SETTINGS["dataset"], "in_distribution")
TEST_IMAGES = FEDERATION.parts[0].images
SHARES = share_out(FEDERATION, "iid", 2, 3)


def model(method: str) -> ClipClassifier:
    names = FEDERATION.class_names, FEDERATION.templates
    return build_classifier("embedded", method, *names, 3)


class Nodes:
    """Two nodes that each hold a share; what they are asked is kept, and nobody answers."""

    def __init__(self, source: str = "partition") -> None:
        self.infos = {
            str(i): NodeInfo(
                str(i),
                source=source,
                partition=i,
                num_partitions=2,
                num_train=len(held_out("train")[i]),
                num_test=len(held_out("test")[i]),
                num_calibration=len(held_out("calibration")[i]),
            )
            for i in range(2)
        }
        self.tasks: list[EvaluateTask] = []

    def evaluate(self, task: EvaluateTask, *_: object) -> dict[str, Any]:
        self.tasks.append(task)
        return {part: {} for part in task.parts}


def evaluation(
    method: str = "lora", nodes: Nodes | None = None, validation: bool = False, **settings: Any
) -> SimpleNamespace:
    keys = {name.replace("_", "-"): value for name, value in settings.items()}
    config = RunConfig.from_flat({**SETTINGS, "method": method, **keys})
    asked, classifier, zero_shot = nodes or Nodes(), model(method), model("zero_shot")
    measures = Evaluation(
        asked, config, FEDERATION, classifier, zero_shot, validation=validation  # type: ignore[arg-type]
    )  # fmt: skip
    return SimpleNamespace(it=measures, classifier=classifier, nodes=asked)


def away(classifier: ClipClassifier, seed: int = 2) -> Adapter:
    rng = torch.Generator().manual_seed(seed)
    start = classifier.export()
    return {n: 0.3 * torch.randn(t.shape, generator=rng) for n, t in start.items()}


def logits(method: str, adapter: Adapter, images: Tensor) -> Tensor:
    classifier = model(method)
    classifier.restore(adapter)
    return predict(classifier, images)


def nll(method: str, adapter: Adapter, parts: list[LabelledImages]) -> float:
    found = torch.cat([logits(method, adapter, part.images) for part in parts]).double()
    return float(cross_entropy(found, torch.cat([part.labels for part in parts])))


def held_out(name: str) -> list[LabelledImages]:
    parts = [divide(share, 0.2, 3, str(i), 0.3) for i, share in enumerate(SHARES)]
    return [getattr(part, name) for part in parts]


@pytest.mark.parametrize("method", ["lora", NOISE])
def test_round_0_is_plain_clip_whatever_the_method_starts_at(method: str) -> None:
    test = [TEST_IMAGES]
    here = evaluation(method)
    here.classifier.restore(away(here.classifier))
    found = here.it.measure_zero_shot()
    plain = nll("zero_shot", {}, test)
    assert found["server-test"]["nll"] == pytest.approx(plain, rel=1e-6)
    start = model(method).export()
    if method == NOISE:
        assert nll(method, start, test) != pytest.approx(plain, rel=1e-2)


def test_every_source_is_the_given_adapter_on_its_own_images() -> None:
    here = evaluation(validation=True)
    adapter = away(here.classifier)
    here.it.measure_zero_shot()
    found = here.it.measure(1, adapter)
    for source, parts in (
        ("server-test", [TEST_IMAGES]),
        ("clients-test", held_out("test")),
        ("clients-validation", held_out("calibration")),
    ):
        assert found[source]["num_examples"] == sum(len(part) for part in parts)
        assert found[source]["nll"] == pytest.approx(nll("lora", adapter, parts), rel=1e-5)


def test_validation_images_are_measured_only_for_whoever_chooses_by_them() -> None:
    assert "clients-validation" not in evaluation().it.measure_zero_shot()


@pytest.mark.parametrize("num_bins", [3, 15])
def test_sums_have_the_bins_of_the_run(num_bins: int) -> None:
    here = evaluation(num_bins=num_bins)
    here.it.measure_zero_shot()
    assert here.it.history[0]["server-test"].spec.num_bins == num_bins
    assert all(stats.spec.num_bins == num_bins for stats in here.it.clients.values())


@pytest.mark.parametrize("resamples", [0, 5])
def test_intervals_are_there_if_the_run_asks_for_resamples(resamples: int) -> None:
    found = evaluation(resamples=resamples).it.measure_zero_shot()
    for source in ("server-test", "clients-test"):
        assert ("ece_low" in found[source]) == bool(resamples)


def test_saved_logits_are_the_last_adapters_and_zero_shots() -> None:
    """In one process the nodes train the server's classifier: it may hold anything by then."""
    here = evaluation()
    first, last = away(here.classifier, 1), away(here.classifier, 2)
    here.it.measure_zero_shot()
    here.it.measure(1, first)
    here.it.measure(2, last)
    here.classifier.restore(first)
    saved = here.it.saved_logits()
    wanted: list[tuple[Mapping[str, Any], list[LabelledImages]]] = [
        (saved.central, [TEST_IMAGES]),
        (saved.test, held_out("test")),
        (saved.calibration, held_out("calibration")),
    ]
    for parts, images in wanted:
        for scored, data in zip(parts.values(), images, strict=True):
            close = {"rtol": 0, "atol": 1e-4}
            torch.testing.assert_close(scored.logits, logits("lora", last, data.images), **close)
            torch.testing.assert_close(
                scored.zero_shot, logits("zero_shot", {}, data.images), **close
            )
            assert torch.equal(scored.labels, data.labels)


def test_pooled_sums_stand_under_the_round_they_are_of() -> None:
    here = evaluation()
    here.it.measure_zero_shot()
    here.it.measure(2, away(here.classifier))
    assert set(here.it.by_source()) == {
        (0, "server-test"), (2, "server-test"), (2, "clients-test")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "settings", "validation", "parts"),
    [
        ("lora", {}, True, []),
        ("lora", {"evaluate_on": "nodes"}, False, [(TEST,)]),
        ("lora", {"evaluate_on": "nodes"}, True, [(TEST, VALIDATION)]),
        ("fedpgp(length=2, rank=1)", {}, False, [(PERSONAL,)]),
    ],
)
def test_nodes_are_asked_for_what_only_they_can_measure(
    method: str, settings: dict[str, Any], validation: bool, parts: list[tuple[str, ...]]
) -> None:
    here = evaluation(method, validation=validation, **settings)
    adapter = here.classifier.export()
    here.it.measure(4, adapter)
    assert [task.parts for task in here.nodes.tasks] == parts
    for task in here.nodes.tasks:
        assert task.round == 4
        assert all(torch.equal(task.adapter[name], adapter[name]) for name in adapter)


def test_data_of_their_own_is_measured_on_the_nodes() -> None:
    here = evaluation(nodes=Nodes("own"))
    assert here.it.on_nodes
    here.it.measure_zero_shot()
    assert [(task.round, task.parts) for task in here.nodes.tasks] == [(0, (TEST,))]
    with pytest.raises(UserError, match="clients 0, 1 have data of their own"):
        evaluation(nodes=Nodes("own"), evaluate_on="server")


def test_a_calibrated_model_on_nodes_is_the_tuned_one_even_without_rounds() -> None:
    """Round 0 would be zero-shot CLIP; see ``EvaluateTask``."""
    here = evaluation(evaluate_on="nodes", num_rounds=0, calibrator="temperature")
    here.it.measure_zero_shot()
    calibrator = load("temperature", Calibrator)
    parameters = calibrator.start(len(FEDERATION.class_names)).parameters
    adapter = here.classifier.export()
    here.it.measure_calibrated(calibrator, parameters, adapter, here.it.saved_logits())
    last = here.nodes.tasks[-1]
    assert (last.round, last.parts, last.calibrator) == (1, (TEST,), "temperature")
    assert isinstance(here.it.calibrated["server-test"], CalibrationStats)


def test_a_share_of_the_images_is_measured_where_all_are_not_asked_for() -> None:
    here, all_of_it = evaluation(eval_share=0.25), evaluation()
    adapter = away(here.classifier)
    here.it.measure_zero_shot()
    first, again = (here.it.measure(n, adapter, whole=False) for n in (1, 2))
    assert first == again, "the same images"
    sizes = [math.ceil(0.25 * len(part)) for part in held_out("test")]
    assert first["server-test"]["num_examples"] == math.ceil(0.25 * len(TEST_IMAGES))
    assert first["clients-test"]["num_examples"] == sum(sizes)
    assert [stats.num_examples for stats in here.it.clients.values()] == sizes
    every = logits("lora", adapter, TEST_IMAGES.images)
    known = {
        round(float(cross_entropy(row[None].double(), label[None])), 6)
        for row, label in zip(every, TEST_IMAGES.labels, strict=True)
    }
    sample = here.it._sample.central["server-test"].images
    rows = cross_entropy(
        logits("lora", adapter, sample.images).double(), sample.labels, reduction="none"
    )
    assert {round(float(value), 6) for value in rows} <= known
    assert first["server-test"]["nll"] == pytest.approx(float(rows.mean()), rel=1e-6)
    all_of_it.it.measure_zero_shot()
    assert here.it.measure(3, adapter) == all_of_it.it.measure(3, adapter)
    saved, expected = here.it.saved_logits(), all_of_it.it.saved_logits()
    assert torch.equal(saved.central["server-test"].logits, expected.central["server-test"].logits)
