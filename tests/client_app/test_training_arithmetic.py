"""Local training against a loop in plain torch, and what of it no loop shows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fl2ora.calibration.losses.base import Loss, LossContext
from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning import low_rank, quick_gelu
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.strategies.client_rule import ClientRule, LocalStart

WORLD = Shapes(styles="held-back", train=48, validation=16, test=16)
DATA = WORLD.split("train")
PLAN = TrainingPlan(CrossEntropy(), client="a", seed=1, learning_rate=0.1)
PLAIN = "sgd(momentum=0.0, weight_decay=0.0)"


def classifier(method: str = "lora(dropout=0.0)") -> ClipClassifier:
    """Return a classifier whose factors are all away from zero."""
    model = build_classifier("embedded", method, WORLD.class_names, WORLD.templates, 0)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.trained:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng))
    return model


def trained(plan: TrainingPlan) -> dict[str, Tensor]:
    return local_train(classifier(), DATA, plan)[0].adapter


def plain_loop(
    momentum: float, weight_decay: float, augmentation: str = "none", half: bool = False
) -> dict[str, Tensor]:
    """Two epochs of three batches (20, 20 and 8 images), written out."""
    model = classifier()
    order = torch.Generator().manual_seed(derive_seed(1, "order"))
    augment = torch.Generator().manual_seed(derive_seed(1, "augmentation"))
    weights = [*model.tuned.values()]
    velocities: list[Tensor | None] = [None] * len(weights)
    for _ in range(2):
        rows = torch.randperm(48, generator=order)
        for batch in (rows[:20], rows[20:40], rows[40:]):
            pixels = model.preprocessing.training(DATA.images[batch], augmentation, augment)  # type: ignore[arg-type]
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = model(pixels)
            loss = cross_entropy(logits.float(), DATA.labels[batch])
            for index, gradient in enumerate(torch.autograd.grad(loss, weights)):
                weight, velocity = weights[index], velocities[index]
                change = gradient + weight_decay * weight.detach()
                change = change if velocity is None else momentum * velocity + change
                velocities[index] = change
                weight.data -= 0.1 * change
    return model.export()


@pytest.mark.parametrize("method", ["lora(targets='q,k,v,o,fc1,fc2')", "lora_residual", "full"])
def test_an_update_is_the_same_whichever_way_layers_are_computed(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few states, LoRA and the activation are computed as peft and transformers do."""
    updates = []
    for smallest in (0, 2**40):
        for module in (low_rank, quick_gelu):
            monkeypatch.setattr(module, "_WORTH", smallest)
        updates.append(local_train(classifier(method), DATA, PLAN)[0].adapter)
    assert_close(*updates, atol=1e-5)
    assert any(not torch.equal(updates[0][name], updates[1][name]) for name in updates[0])


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "augmentation", "half"),
    [
        (0.0, 0.0, "none", False),
        (0.9, 0.05, "none", False),
        (0.5, 0.0, "flip", False),
        (0.9, 0.05, "crop_flip", False),
        (0.9, 0.05, "none", True),
    ],
)
def test_two_epochs_equal_a_plain_loop(
    momentum: float, weight_decay: float, augmentation: str, half: bool
) -> None:
    plan = replace(
        PLAN,
        epochs=2,
        batch_size=20,
        optimiser=f"sgd(momentum={momentum}, weight_decay={weight_decay})",
        augmentation=augmentation,  # type: ignore[arg-type]
        precision="bfloat16" if half else "float32",
    )
    expected = plain_loop(momentum, weight_decay, augmentation, half)
    update, _ = local_train(classifier(), DATA, plan)
    assert update.metrics["steps"] == 6
    assert_close(update.adapter, expected, 1e-6)
    others = [plain_loop(0.0, 0.0), plain_loop(0.9, 0.05)]
    moved = [max(float((e[n] - expected[n]).abs().max()) for n in e) for e in others]
    assert sorted(moved)[1] > 1e-4, "the settings must tell in this test"


class Watches(Loss):
    """Cross-entropy that keeps what it was given."""

    needs = frozenset({"image_features", "text_features"})

    def __init__(self) -> None:
        self.labels: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.contexts: list[LossContext] = []

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        self.labels.append(labels)
        self.logits.append(logits.detach())
        self.contexts.append(context)
        return cross_entropy(logits, labels)


def test_every_epoch_has_all_images_in_an_order_of_its_own() -> None:
    loss = Watches()
    data = replace(DATA, labels=torch.arange(48) % 16)
    local_train(classifier(), data, replace(PLAN, loss=loss, epochs=3, batch_size=48))
    assert all(torch.equal(found.bincount(), data.labels.bincount()) for found in loss.labels)
    first, second, third = loss.labels
    assert not torch.equal(first, data.labels)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_logits_are_never_computed_in_half_precision(precision: str) -> None:
    """They are the scaled cosines of the features to float32's precision, 2^-24, not 2^-9."""
    loss, model = Watches(), classifier()
    scale = float(model.clip.logit_scale.double().exp())
    local_train(model, DATA, replace(PLAN, loss=loss, batch_size=48, precision=precision))
    context = loss.contexts[0]
    assert context.image_features is not None
    assert context.text_features is not None
    images, texts = context.image_features.detach(), context.text_features.detach()
    expected = scale * images.double() @ texts.double().T
    assert loss.logits[0].dtype == torch.float32
    torch.testing.assert_close(loss.logits[0].double(), expected, rtol=0, atol=1e-4)
    assert float(expected.abs().max()) > 5  # bfloat16 would be off by a hundredth


def test_precision_and_augmentation_are_the_plans() -> None:
    results = [
        trained(replace(PLAN, epochs=2, precision=precision, augmentation=augmentation))  # type: ignore[arg-type]
        for precision, augmentation in (
            ("float32", "none"), ("bfloat16", "none"),
            ("float32", "flip"), ("float32", "crop_flip"),
        )
    ]  # fmt: skip
    for index, one in enumerate(results):
        for two in results[:index]:
            assert max(float((one[name] - two[name]).abs().max()) for name in one) > 1e-5


def gradient_of(data_rows: Tensor) -> dict[str, Tensor]:
    model = classifier()
    pixels = model.preprocessing.evaluation(DATA.images[data_rows])
    cross_entropy(model(pixels), DATA.labels[data_rows]).backward()
    return {name: p.grad for name, p in model.tuned.items() if p.grad is not None}


@pytest.mark.parametrize(("batch", "accumulate"), [(16, 3), (12, 4), (20, 3), (7, 20)])
def test_accumulated_batches_equal_one_of_all_images(batch: int, accumulate: int) -> None:
    """Also where the last batch is smaller: gradients are averaged over images, not batches."""
    plan = replace(PLAN, optimiser=PLAIN, batch_size=batch, accumulate=accumulate)
    update, _ = local_train(classifier(), DATA, plan)
    start, gradient = classifier().export(), gradient_of(torch.arange(48))
    assert update.metrics["steps"] == 1
    assert_close(update.adapter, {n: start[n] - 0.1 * gradient[n] for n in start}, 1e-6)


def test_accumulating_equals_larger_batches_over_epochs() -> None:
    """Steps of 32 and 16 images: the last group of an epoch has only two of four batches."""
    plan = replace(PLAN, epochs=2, optimiser="sgd(momentum=0.9, weight_decay=0.05)")
    large, _ = local_train(classifier(), DATA, replace(plan, batch_size=32))
    small, _ = local_train(classifier(), DATA, replace(plan, batch_size=8, accumulate=4))
    assert large.metrics["steps"] == small.metrics["steps"] == 4
    assert_close(small.adapter, large.adapter, 1e-6)


class Counting(ClientRule):
    """Has a penalty, and changes gradients; counts."""

    def __init__(self) -> None:
        self.changes = 0

    def begin(self, start: LocalStart) -> None:
        self.tuned = start.tuned

    def penalty(self) -> Tensor:
        return sum((p.square().sum() for p in self.tuned.values()), start=torch.zeros(()))

    def after_backward(self) -> None:
        self.changes += 1
        for parameter in self.tuned.values():
            assert parameter.grad is not None
            parameter.grad *= 3

    def finish(self, steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert steps == self.changes
        return {}, {}


@pytest.mark.parametrize(("batch", "accumulate"), [(48, 1), (20, 3)])
def test_a_rule_acts_once_a_step_and_its_penalty_counts_once(batch: int, accumulate: int) -> None:
    rule = Counting()
    plan = replace(PLAN, optimiser=PLAIN, rule=rule, batch_size=batch, accumulate=accumulate)
    found = trained(plan)
    start, gradient = classifier().export(), gradient_of(torch.arange(48))
    expected = {n: start[n] - 0.1 * 3 * (gradient[n] + 2 * start[n]) for n in start}
    assert rule.changes == 1
    assert_close(found, expected, 1e-6)


def norm(tensors: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors.values()))


@pytest.mark.parametrize("share", [0.1, 0.5, 2.0])
def test_the_whole_gradient_is_clipped_after_the_rule(share: float) -> None:
    """The rule makes it three times as long; only then is its length compared with the limit."""
    start, gradient = classifier().export(), gradient_of(torch.arange(48))

    class Triples(Counting):
        def penalty(self) -> Tensor:
            return torch.zeros(())

    limit = share * 3 * norm(gradient)
    plan = replace(
        PLAN, optimiser=PLAIN, rule=Triples(), batch_size=16, accumulate=3, gradient_clip=limit
    )
    factor = 3 * min(1.0, share)
    found = trained(plan)
    assert_close(found, {n: start[n] - 0.1 * factor * gradient[n] for n in start}, 1e-6)


def test_weight_decay_is_not_clipped() -> None:
    plan = replace(
        PLAN, optimiser="sgd(momentum=0.0, weight_decay=0.5)", batch_size=48, gradient_clip=1e-9
    )
    found, start = trained(plan), classifier().export()
    assert_close(found, {n: t * (1 - 0.1 * 0.5) for n, t in start.items()}, 1e-6)


def test_a_personal_part_is_accumulated_and_clipped_with_the_rest() -> None:
    """FedPGP's low-rank change stays on the client; it counts for the gradient's length."""

    def run(**changes: object) -> dict[str, Tensor]:
        model = build_classifier(
            "embedded", "fedpgp(length=2, rank=1)", WORLD.class_names, WORLD.templates, 0
        )
        start = {**model.export(), **model.export_personal()}
        with model.as_client({}):
            local_train(model, DATA, replace(PLAN, optimiser=PLAIN, **changes))  # type: ignore[arg-type]
        end = {**model.export(), **model.export_personal()}
        return {name: end[name] - start[name] for name in start}

    whole, clipped = run(batch_size=48), run(batch_size=48, gradient_clip=0.01)
    assert norm(whole) > 0.1 * 0.01
    assert norm(clipped) == pytest.approx(0.1 * 0.01, rel=1e-2)
    factor = norm(clipped) / norm(whole)
    assert_close(clipped, {name: factor * tensor for name, tensor in whole.items()}, 1e-6)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1]),
        ("cosine", [(1 + math.cos(math.pi / 4)) / 2] * 3),
        ("cosine(per='step')", [(1 + math.cos(math.pi * t / 12)) / 2 for t in (3, 4, 5)]),
        ("linear(per='step', final=0.5)", [1 - 0.5 * t / 12 for t in (3, 4, 5)]),
        ("step(every=1, factor=0.5)", [0.5] * 3),
    ],
)
def test_every_step_has_the_learning_rate_of_the_schedule(
    schedule: str, factors: list[float]
) -> None:
    """Weight decay alone, of a loss without gradient: each step leaves ``1 - rate * decay``."""

    class Flat(Loss):
        def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
            return logits.sum() * 0

    plan = replace(
        PLAN,
        loss=Flat(),
        batch_size=16,
        optimiser="sgd(momentum=0.0, weight_decay=1.0)",
        schedule=schedule,
        round=2,
        num_rounds=4,
    )
    left = math.prod(1 - 0.1 * factor for factor in factors)
    start = classifier().export()
    assert_close(trained(plan), {n: left * t for n, t in start.items()}, 1e-6)


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        ("adamw(weight_decay=0.1)", lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1)),
        (
            "sgd(momentum=0.5, weight_decay=0.0, nesterov=True)",
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, nesterov=True),
        ),
        ("torch.optim:RMSprop(alpha=0.9)", lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.9)),
    ],
)
def test_other_optimisers_train_as_torch_does(spec: str, reference: object) -> None:
    model = classifier()
    assert callable(reference)
    optimiser = reference([*model.tuned.values()])
    pixels = model.preprocessing.evaluation(DATA.images[:])
    order = torch.Generator().manual_seed(derive_seed(1, "order"))
    for _ in range(3):
        rows = torch.randperm(48, generator=order)
        optimiser.zero_grad()
        cross_entropy(model(pixels[rows]), DATA.labels[rows]).backward()
        optimiser.step()
    found = trained(replace(PLAN, optimiser=spec, epochs=3, batch_size=48))
    start = classifier().export()
    assert norm({n: found[n] - start[n] for n in found}) > 0.1
    assert_close(found, model.export(), 1e-6)


def test_the_last_parameters_are_those_that_are_sent() -> None:
    model = classifier()
    update, _ = local_train(model, DATA, PLAN)
    assert all(torch.equal(update.adapter[name], p.detach()) for name, p in model.tuned.items())
    assert all(isinstance(p, nn.Parameter) for p in model.tuned.values())
