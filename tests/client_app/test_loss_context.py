"""Every loss trains on a real client, and gets what it asks for, computed once where it can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fl2ora.calibration.losses.base import Loss, LossContext
from fl2ora.client_app.loss_context import ZeroShotReference
from fl2ora.client_app.node import Node
from fl2ora.client_app.tasks import build_loss
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.prediction import predict
from fl2ora.clip_tuning.prefix.features import prefix_features
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.plugins import available
from fl2ora.federated_data.datasets.shapes import Shapes

WORLD = Shapes(styles="held-back", train=32, validation=16, test=16)
DATA = WORLD.split("train")
SETTINGS: dict[str, Any] = {"batch_size": 16, "learning_rate": 0.1, "client": "a", "seed": 1}
NO_DECAY = "sgd(weight_decay=0.0)"


def classifier(method: str = "lora") -> ClipClassifier:
    return build_classifier("embedded", method, WORLD.class_names, WORLD.templates, 0)


def reference() -> ZeroShotReference:
    frozen = classifier("zero_shot")
    return ZeroShotReference(frozen, prefix_features(frozen, DATA.images, 8))


def train(loss: Loss) -> dict[str, Tensor]:
    model = classifier()
    previous = {name: tensor + 0.01 for name, tensor in model.export().items()}
    plan = TrainingPlan(loss, previous=previous, **SETTINGS)
    update, _ = local_train(model, DATA, plan, reference=reference)
    assert all(torch.isfinite(t).all() for t in update.adapter.values())
    return update.adapter


def test_there_are_losses_to_try() -> None:
    assert len(available(Loss)) > 20


@pytest.mark.parametrize("name", available(Loss))
def test_every_loss_trains_a_client(name: str) -> None:
    loss = build_loss(name)
    text = f"cross_entropy + 0.1*{name}" if loss.is_penalty else name
    trained = train(build_loss(text))
    if loss.is_penalty:
        plain = train(build_loss("cross_entropy"))
        if name != "nucfl":  # the local change starts at zero, so its weight may stay 0
            assert any(not torch.equal(trained[n], plain[n]) for n in plain)


class Spy(Loss):
    """Keeps the contexts it was given."""

    def __init__(self, *needs: str) -> None:
        self.needs = frozenset(needs)
        self.contexts: list[LossContext] = []

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        self.contexts.append(context)
        return logits.sum() * 0


def test_zero_shot_logits_are_those_of_the_same_images() -> None:
    seen: dict[int, Tensor] = {}

    class Compare(Spy):
        def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
            # LoRA starts at zero-shot, and this loss trains nothing: the two must agree.
            assert context.zero_shot_logits is not None
            seen[len(seen)] = (logits.detach() - context.zero_shot_logits).abs().max()
            return super().__call__(logits, labels, context)

    plan = TrainingPlan(Compare("zero_shot_logits"), optimiser=NO_DECAY, **SETTINGS)
    local_train(classifier("lora(dropout=0.0)"), DATA, plan, reference=reference)
    assert len(seen) == 2
    assert max(seen.values()) < 1e-4


def test_with_augmentation_the_frozen_model_sees_what_the_tuned_one_sees() -> None:
    differences = []

    class Compare(Spy):
        def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
            assert context.zero_shot_logits is not None
            differences.append(float((logits.detach() - context.zero_shot_logits).abs().max()))
            return super().__call__(logits, labels, context)

    plan = TrainingPlan(
        Compare("zero_shot_logits"), optimiser=NO_DECAY, augmentation="crop_flip", **SETTINGS
    )
    local_train(classifier("lora(dropout=0.0)"), DATA, plan, reference=reference)
    assert max(differences) < 1e-4


def test_frozen_images_are_encoded_once_for_all_rounds() -> None:
    frozen = classifier("zero_shot")
    calls = []
    encode = frozen.encode_images

    def counting(pixels: Tensor) -> Tensor:
        calls.append(len(pixels))
        return encode(pixels)

    frozen.encode_images = counting  # type: ignore[method-assign]
    kept = ZeroShotReference(frozen, prefix_features(frozen, DATA.images, 8))
    for seed in (1, 2):
        plan = TrainingPlan(Spy("zero_shot_logits"), **{**SETTINGS, "seed": seed})
        local_train(classifier(), DATA, plan, reference=lambda: kept)
    assert sum(calls) == len(DATA)


def test_what_is_not_needed_is_not_computed() -> None:
    def fail() -> ZeroShotReference:
        raise AssertionError("nobody asked")

    spy = Spy()
    local_train(classifier(), DATA, TrainingPlan(spy, **SETTINGS), reference=fail)
    context = spy.contexts[0]
    assert context.zero_shot_logits is None
    assert context.encode_texts is None
    assert context.update_similarity == 0
    assert context.class_names == WORLD.class_names


def test_update_similarity_is_the_cosine_of_the_merged_changes() -> None:
    spy = Spy("update_similarity")
    model = classifier("lora(dropout=0.0)")
    with torch.no_grad():
        for name, parameter in model.tuned.items():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.manual_seed(0)))
    start = model.export()
    previous = {name: tensor * 0.5 for name, tensor in start.items()}
    plan = TrainingPlan(
        spy,
        batch_size=16,
        learning_rate=0.5,
        optimiser="sgd(momentum=0.0, weight_decay=0.1)",
        previous=previous,
    )
    local_train(model, DATA, plan, reference=reference)
    assert spy.contexts[0].update_similarity == 0, "nothing has changed yet"
    # Weight decay alone shrinks A and B; the last global change grew them: opposite directions.
    now = {name: tensor * 0.95 for name, tensor in start.items()}
    assert spy.contexts[1].update_similarity == pytest.approx(
        dense_cosine(now, start, previous), abs=1e-5
    )
    assert spy.contexts[1].update_similarity < -0.9


def dense_cosine(
    now: Mapping[str, Tensor], start: Mapping[str, Tensor], before: Mapping[str, Tensor]
) -> float:
    """The same from dense products, one long vector each."""

    def products(adapter: Mapping[str, Tensor]) -> Tensor:
        stems = sorted(n.removesuffix(".lora_A.weight") for n in adapter if "lora_A" in n)
        return torch.cat(
            [
                (adapter[s + ".lora_B.weight"].double() @ adapter[s + ".lora_A.weight"].double())
                .flatten()
                for s in stems
            ]
        )  # fmt: skip

    local = products(now) - products(start)
    last = products(start) - products(before)
    return float(torch.nn.functional.cosine_similarity(local, last, dim=0))


def test_words_that_are_no_classes_can_be_encoded() -> None:
    model = classifier()
    names = model.encode_names(WORLD.class_names)
    torch.testing.assert_close(names, model.encode_classes())
    assert model.encode_names(["lamp", "river"]).shape == (2, names.shape[1])


def test_a_nodes_reference_is_its_own_and_kept() -> None:
    run = RunConfig.from_flat(
        {"dataset": "shapes(styles='held-back', train=64, validation=16, test=16)"}
    ).flat()
    nodes = [
        Node.from_configs(run, {"partition-id": index, "num-partitions": 2}, index)
        for index in (0, 1, 0)
    ]
    pixels = torch.zeros(0)
    found = [node.reference().image_features(torch.arange(9), pixels, False) for node in nodes]
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    rows = torch.arange(len(nodes[1].data.train))
    kept = nodes[1].reference()
    logits = kept.logits(kept.image_features(rows, pixels, False))
    expected = predict(nodes[1].zero_shot_classifier(), nodes[1].data.train.images)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
