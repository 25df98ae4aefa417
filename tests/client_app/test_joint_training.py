"""Clients that are trained together come to what each of them comes to alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fl2ora.calibration.losses.base import Loss, LossContext
from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app import joint_layers
from fl2ora.client_app.joint_training import Result, train_jointly
from fl2ora.client_app.local_round import LocalRound
from fl2ora.client_app.loss_context import ZeroShotReference
from fl2ora.client_app.tasks import build_loss
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning import dropout, low_rank, packed_prompts, quick_gelu
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.own_copy import check_joint, own_copy
from fl2ora.clip_tuning.prefix.features import prefix_features
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.federated_data.images import LabelledImages
from fl2ora.strategies.client_rule import ClientRule
from fl2ora.strategies.updates import ClientUpdate
from small_trees import stems_wherever_possible

WORLD = Shapes(styles="held-back", train=40, validation=16, test=16)
PLAN = TrainingPlan(
    CrossEntropy(), batch_size=8, epochs=2, learning_rate=0.05, optimiser="sgd(momentum=0.9)"
)
PARTS = [(0, 16), (16, 36), (36, 40)]  # 2, 3 and 1 batches; of 8, of 4 and of 4 images


def classifier(method: str) -> ClipClassifier:
    """Return a classifier whose tuned values are all away from where they begin."""
    model = build_classifier("embedded", method, WORLD.class_names, WORLD.templates, 0)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.trained:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=rng))
    return model


def plans(rule: str = "", **changes: object) -> list[TrainingPlan]:
    return [
        replace(
            PLAN,
            client=name,
            seed=seed,
            rule=load(rule, ClientRule) if rule else ClientRule(),
            **changes,  # type: ignore[arg-type]
        )
        for seed, name in enumerate("abc")
    ]


def parts() -> list[LabelledImages]:
    train = WORLD.split("train")
    return [train.select(torch.arange(*ends)) for ends in PARTS]


def together(model: ClipClassifier, todo: list[TrainingPlan], table: bool = False) -> list[Result]:
    start = model.export()
    frozen = build_classifier("embedded", "zero_shot", WORLD.class_names, WORLD.templates, 0)
    rounds = []
    for data, plan in zip(parts(), todo, strict=True):
        own = own_copy(model)
        own.restore(start)
        rounds.append(
            LocalRound(
                own,
                data,
                plan,
                reference=lambda: ZeroShotReference(frozen),
                image_table=lambda data=data: (  # type: ignore[misc]
                    prefix_features(model, data.images, 8) if table else None
                ),
            )
        )
    results = train_jointly(model, rounds)
    assert all(torch.equal(value, start[name]) for name, value in model.export().items())
    assert not any(module.training for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())
    return results


def alone(model: ClipClassifier, todo: list[TrainingPlan]) -> list[Result]:
    start = model.export()
    frozen = build_classifier("embedded", "zero_shot", WORLD.class_names, WORLD.templates, 0)
    results: list[Result] = []
    for data, plan in zip(parts(), todo, strict=True):
        model.restore(start)
        reference = ZeroShotReference(frozen)
        results.append(local_train(model, data, plan, reference=lambda ref=reference: ref))  # type: ignore[misc]
    model.restore(start)
    return results


def assert_close(found: Result, expected: Result) -> None:
    assert not isinstance(found, Exception), found
    assert not isinstance(expected, Exception)
    for mine, theirs in zip(parts_of(found), parts_of(expected), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-5, atol=1e-5)
    update, wanted = found[0], expected[0]
    assert (update.client, update.num_examples) == (wanted.client, wanted.num_examples)
    assert update.metrics == pytest.approx(wanted.metrics, rel=1e-5, abs=1e-6)


def parts_of(result: tuple[ClientUpdate, dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [result[0].adapter, result[0].aux, result[1]]


@pytest.mark.parametrize(
    "method",
    [
        "lora", "lora(dropout=0.0, dora=True)", "lora(towers='text', rank=1)",
        "coop(length=2)", "maple", "layer_norm", "bitfit", "clip_adapter", "task_res",
        "linear_probe", "logit_scale",
    ],
)  # fmt: skip
def test_every_client_gets_what_it_gets_alone(method: str) -> None:
    model = classifier(method)
    check_joint(model)
    expected, found = alone(model, plans()), together(model, plans())
    moved = model.export()
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine, theirs)
        assert not isinstance(mine, Exception)
        assert any(not torch.equal(mine[0].adapter[name], moved[name]) for name in moved)


@pytest.mark.parametrize("method", ["lora(dropout=0.0)", "coop(length=2)", "lora"])
def test_prompts_in_trees_are_each_clients_own(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_prompts, "_WORTH", 1e9)
    model = classifier(method)
    with stems_wherever_possible():
        found, expected = together(model, plans()), alone(model, plans())
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine, theirs)


@pytest.mark.parametrize("method", ["lora", "lora_residual(dropout=0.0)"])
def test_a_client_gets_alone_what_it_gets_beside_others_if_its_layers_are_computed_faster(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (low_rank, quick_gelu):
        monkeypatch.setattr(module, "_WORTH", 0)
    model = classifier(method)
    expected, found = alone(model, plans()), together(model, plans())
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine, theirs)


def test_one_clients_dropout_does_not_depend_on_who_is_beside_it() -> None:
    model = classifier("lora(dropout=0.5)")
    first = together(model, plans())[0]
    others = [plan if plan.client == "a" else replace(plan, seed=9) for plan in plans()]
    again = together(model, others)
    assert_close(again[0], first)
    assert not isinstance(again[1], Exception)
    kept = together(model, plans())[1]
    assert not isinstance(kept, Exception)
    changed = again[1][0].adapter
    assert any(not torch.equal(changed[name], kept[0].adapter[name]) for name in changed)


def test_loras_dropout_is_drawn_one_way_in_a_layer_alone_and_for_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Intel's processors torch's own draws are others, as they are here of what is patched."""

    def drawn(shape: torch.Size, share: float, generator: torch.Generator | None = None) -> Tensor:
        return torch.rand(shape, generator=generator) > share

    for module in (dropout, joint_layers, low_rank):
        monkeypatch.setattr(module, "keep_mask", drawn)
    model = classifier("lora")
    expected, found = alone(model, plans()), together(model, plans())
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("fedprox(mu=0.5)", {"accumulate": 2, "gradient_clip": 0.05}),
        ("", {"augmentation": "crop_flip", "optimiser": "adamw(eps=0.001)"}),
        ("", {"loss": build_loss("cross_entropy + 0.5*zs_norm"), "precision": "bfloat16"}),
        ("", {"loss": build_loss("mixup")}),
    ],
)
def test_rules_losses_and_optimisers_are_each_clients_own(
    rule: str, changes: dict[str, object]
) -> None:
    model = classifier("lora(blocks='up')")
    half = changes.get("precision") == "bfloat16"
    expected, found = alone(model, plans(rule, **changes)), together(model, plans(rule, **changes))
    for mine, theirs in zip(found, expected, strict=True):
        if half:  # sums of other shapes round otherwise
            assert not isinstance(mine, Exception)
            assert not isinstance(theirs, Exception)
            assert mine[0].metrics == pytest.approx(theirs[0].metrics, rel=0.02)
        else:
            assert_close(mine, theirs)


def test_kept_prefix_features_stand_in_for_the_images() -> None:
    model = classifier("lora(blocks='up', dropout=0.0)")
    expected = alone(model, plans())
    for mine, theirs in zip(together(model, plans(), table=True), expected, strict=True):
        assert_close(mine, theirs)


class FailsFor(Loss):
    """Cross-entropy that is not finite for batches of one size."""

    def __init__(self, size: int, value: float) -> None:
        self.size, self.value = size, value

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        if len(labels) == self.size and not self.value:
            raise RuntimeError("broken")
        loss = nn.functional.cross_entropy(logits, labels)
        return loss * self.value if len(labels) == self.size else loss


@pytest.mark.parametrize(
    ("value", "message"), [(float("nan"), "the loss is nan at step 1"), (0.0, "broken")]
)
def test_what_one_client_raises_ends_its_training_alone(value: float, message: str) -> None:
    model = classifier("lora")
    todo = plans()
    todo[2] = replace(todo[2], loss=FailsFor(4, value))
    expected, found = alone(model, plans())[:2], together(model, todo)
    for mine, theirs in zip(found, expected, strict=False):
        assert_close(mine, theirs)
    with pytest.raises(Exception, match=message):
        raise found[2]  # type: ignore[misc]


def test_a_pass_that_fails_ends_the_training_of_those_in_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = ClipClassifier.run

    def failing(self: ClipClassifier, pixels: Tensor, *rest: object) -> object:
        if len(pixels) == 8:
            raise MemoryError("no room for 8 images")
        return run(self, pixels, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ClipClassifier, "run", failing)
    first, second, third = together(classifier("lora"), plans())
    assert str(first) == str(second) == "no room for 8 images"
    assert isinstance(third, tuple)


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("fedpgp", "has personal parts"),
        ("kgcoop", "has an objective of its own"),
        ("prograd", "changes gradients"),
        ("tip_adapter", "sends what no gradient trains"),
        ("lora_residual", "sends what no gradient trains"),
        ("zero_shot", "trains nothing by gradients"),
    ],
)
def test_methods_that_do_more_than_a_forward_pass_are_refused(method: str, reason: str) -> None:
    model = build_classifier("embedded", method, WORLD.class_names, WORLD.templates, 0)
    with pytest.raises(UserError, match=f"clients-per-batch: expected 1 with .*{reason}"):
        check_joint(model)
