"""Training whose passes are recorded equals training without, here with a stand-in for CUDA's."""

from __future__ import annotations

import copy
import gc
import logging
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app import objective
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning import recorded_pass
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.recorded_pass import RecordedPasses, can_be_recorded, recorded_passes
from fl2ora.clip_tuning.towers import recompute_activations
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.federated_data.images import LabelledImages

WORLD = Shapes(styles="held-back", train=52, validation=16, test=16)
# 13 batches of 4 an epoch: from the ninth on they are recorded.
PLAN = TrainingPlan(CrossEntropy(), batch_size=4, learning_rate=0.1, client="a", seed=1)
PLAIN = ("lora", "layer_norm", "coop", "kgcoop", "fedpgp", "vpt", "task_res", "lora_residual")
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class StandIn:
    """Records like ``torch.cuda.make_graphed_callables``: in memory that every call overwrites.

    Attributes:
        recorded: how many passes were.
        replayed: how often one was started.
        error: raised in place of recording.
        mode: what torch's debug mode for what waits for a device is set to.
    """

    def __init__(self) -> None:
        self.recorded, self.replayed, self.error, self.mode = 0, 0, "", 0

    def __call__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        given: tuple[Tensor, ...],
        *,
        allow_unused_input: bool,
        pool: object,
    ) -> Callable[..., tuple[Tensor, ...]]:
        if self.error:
            raise RuntimeError(self.error)
        assert allow_unused_input
        assert pool == "pool"
        assert self.mode == 0
        self.recorded += 1
        entry, *parameters = given
        moving = [parameter for parameter in parameters if parameter.requires_grad]
        exits = [found.detach().clone() for _ in range(3) for found in function(*given)][-3:]
        # What was on while recording is so in both directions.
        on = torch.is_autocast_enabled("cpu")
        inside: list[Tensor] = []

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, pixels: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
                self.replayed += 1
                entry.copy_(pixels)
                with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=on):
                    inside[:] = function(*given)
                for exit_, found in zip(exits, inside, strict=True):
                    exit_.copy_(found.detach())
                return tuple(exit_.detach() for exit_ in exits)

            @staticmethod
            def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
                pairs = [(o, g) for o, g in zip(inside, gradients, strict=True) if o.requires_grad]
                outputs, known = zip(*pairs, strict=True)
                with torch.autocast("cpu", torch.bfloat16, enabled=on):
                    found = iter(torch.autograd.grad(outputs, moving, known, allow_unused=True))
                return None, *(next(found) if p.requires_grad else None for p in parameters)

        def start(pixels: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
            assert all(one is other for one, other in zip(others, parameters, strict=True))
            return Replay.apply(pixels, *others)  # type: ignore[no-any-return, no-untyped-call]

        return start


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Let training on the processor take the way of a CUDA device."""
    found = StandIn()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", found)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: found.mode)
    monkeypatch.setattr(
        torch.cuda, "set_sync_debug_mode", lambda mode: setattr(found, "mode", mode)
    )
    monkeypatch.setattr(torch.random, "fork_rng", forked)
    monkeypatch.setattr(
        objective, "_records", lambda model, plan: plan.cuda_graphs and can_be_recorded(model)
    )
    return found


_fork_rng = torch.random.fork_rng


def forked(devices: object = ()) -> object:
    return _fork_rng(devices=[])


def built(method: str) -> ClipClassifier:
    return build_classifier("embedded", method, WORLD.class_names, WORLD.templates, 0)


def rounds(model: ClipClassifier, plan: TrainingPlan, count: int = 2) -> list[Adapter]:
    """Train some rounds, one after the other; return the adapters of all."""
    found, device = [], model.clip.device
    for number in range(count):
        with model.as_client({}):
            trained, _ = local_train(model, WORLD.split("train"), replace(plan, seed=number))
        found.append(trained.adapter)
    assert model.clip.device == device
    return found


def equal(ones: list[Adapter], others: list[Adapter]) -> bool:
    return all(
        torch.equal(tensor, other[name])
        for one, other in zip(ones, others, strict=True)
        for name, tensor in one.items()
    )


@pytest.mark.parametrize("method", PLAIN)
def test_recorded_passes_train_the_same(stand_in: StandIn, method: str) -> None:
    model = built(method)
    start = model.export()
    recorded = rounds(model, PLAN, 1)
    assert (stand_in.recorded, stand_in.replayed) == (1, 13 - 8)
    plain = rounds(built(method), replace(PLAN, cuda_graphs=False), 1)
    assert (stand_in.recorded, stand_in.replayed) == (1, 13 - 8)
    assert equal(recorded, plain)
    assert not equal(plain, [start])


@pytest.mark.parametrize("changed", [
    {"precision": "bfloat16"},
    {"optimiser": "sgd(momentum=0.9)"},
    {"optimiser": "adamw", "learning_rate": 0.001},
    {"accumulate": 3},
    {"gradient_clip": 0.01},
])  # fmt: skip
def test_recorded_passes_train_the_same_under(stand_in: StandIn, changed: dict[str, Any]) -> None:
    plan = replace(PLAN, **changed)
    recorded = rounds(built("lora"), plan, 1)
    assert stand_in.recorded == 1
    assert equal(recorded, rounds(built("lora"), replace(plan, cuda_graphs=False), 1))


def test_batches_of_each_size_are_recorded_once_they_came_often(stand_in: StandIn) -> None:
    data = WORLD.split("train")
    some = LabelledImages(data.images[:15], data.labels[:15], data.domains[:15])
    model, plan = built("lora"), replace(PLAN, epochs=8)  # 24 batches of 4, 8 of 3
    local_train(model, some, plan)
    assert (stand_in.recorded, stand_in.replayed) == (1, 24 - 8)
    local_train(model, some, plan)
    assert (stand_in.recorded, stand_in.replayed) == (2, 24 - 8 + 24 + 8)


def test_few_sizes_are_recorded(stand_in: StandIn) -> None:
    data, model = WORLD.split("train"), built("lora")
    for size in (1, 2, 3, 4, 5):
        some = LabelledImages(data.images[:size], data.labels[:size], data.domains[:size])
        local_train(model, some, replace(PLAN, batch_size=size, epochs=9))
    assert (stand_in.recorded, stand_in.replayed) == (4, 4)


def test_passes_go_with_their_model(stand_in: StandIn) -> None:
    model = built("lora")
    rounds(model, PLAN, 1)
    gone, passes = weakref.ref(model), weakref.ref(recorded_passes(model))
    gc.collect()
    gc.disable()
    try:
        del model
        assert passes() is None
        assert gone() is None
    finally:
        gc.enable()


def test_known_features_are_recorded_apart_from_pixels(stand_in: StandIn) -> None:
    model, data = built("coop"), WORLD.split("train")
    table = torch.nn.functional.normalize(torch.randn(52, model.encode_classes().shape[1]), dim=1)
    local_train(model, data, PLAN)
    local_train(model, data, PLAN, image_table=lambda: table)
    assert stand_in.recorded == 2


def test_passes_of_another_precision_are_recorded_anew(stand_in: StandIn) -> None:
    model, start = built("lora"), built("lora").export()
    for precision in ("float32", "bfloat16", "float32"):
        model.restore(start)
        found = rounds(model, replace(PLAN, precision=precision), 1)
        plain = rounds(built("lora"), replace(PLAN, precision=precision, cuda_graphs=False), 1)
        assert equal(found, plain)
    assert stand_in.recorded == 2


def test_a_pass_leaves_what_earlier_ones_gave_and_were_given(stand_in: StandIn) -> None:
    model = built("lora")
    passes, batches = recorded_passes(model), torch.randn(11, 2, 3, *[model.preprocessing.size] * 2)
    found: list[Any] = [passes.parts(batch, None, "", nullcontext) for batch in batches.clone()]
    assert found[:8] == [None] * 8
    given = batches[8].clone()
    first = passes.parts(given, None, "", nullcontext)
    assert first is not None
    before = [each.detach().clone() for each in first]
    with torch.no_grad():
        for parameter in model.trained:
            parameter.add_(0.1)
    passes.parts(batches[9], None, "", nullcontext)
    assert all(torch.equal(one, other) for one, other in zip(first, before, strict=True))
    assert torch.equal(given, batches[8])
    again = RecordedPasses(model)
    entered = batches[10].clone()
    for _ in range(9):
        again.parts(entered, None, "", nullcontext)
    again.parts(batches[9], None, "", nullcontext)
    assert torch.equal(entered, batches[10])


def test_a_pass_that_waits_is_said_once_and_trains_without(
    stand_in: StandIn, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built("lora")
    encode = model.encode_classes

    def waits() -> Tensor:
        if stand_in.mode == "error":  # type: ignore[comparison-overlap]
            raise RuntimeError("called a synchronizing CUDA operation\nmore")
        return encode()

    monkeypatch.setattr(model, "encode_classes", waits)
    with caplog.at_level(logging.WARNING):
        found = rounds(model, PLAN)
        rounds(model, replace(PLAN, batch_size=2), 1)  # other passes, which are not tried again
    assert len(found) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "cuda-graphs: training goes on without, as its pass cannot be recorded: called a "
        "synchronizing CUDA operation"
    ]
    assert (stand_in.recorded, stand_in.mode) == (0, 0)
    assert equal(found, rounds(built("lora"), replace(PLAN, cuda_graphs=False)))


def test_a_backward_pass_that_waits_trains_without(stand_in: StandIn) -> None:
    class Waits(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, features: Tensor) -> Tensor:
            return features.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            if stand_in.mode == "error":  # type: ignore[comparison-overlap]
                raise RuntimeError("called a synchronizing CUDA operation")
            return gradient

    model = built("lora")
    encode = model.encode_images
    model.encode_images = lambda pixels: Waits.apply(encode(pixels))  # type: ignore[method-assign, no-untyped-call]
    found = rounds(model, PLAN, 1)
    assert stand_in.recorded == 0
    assert equal(found, rounds(built("lora"), replace(PLAN, cuda_graphs=False), 1))


def test_what_fails_while_it_is_recorded_is_refused_with_a_way_out(stand_in: StandIn) -> None:
    stand_in.error = "operation not permitted when stream is capturing\nmore"
    with pytest.raises(UserError, match=r"capturing\); cuda-graphs=false trains without$"):
        rounds(built("lora"), PLAN)


def test_a_restored_adapter_is_trained_by_what_was_recorded(stand_in: StandIn) -> None:
    model = built("lora")
    start = model.export()
    first = rounds(model, PLAN)
    model.restore(start)
    again = rounds(model, PLAN)
    assert stand_in.recorded == 1
    assert equal(first, again)


def test_passes_are_forgotten_where_a_parameter_has_moved_or_is_frozen(stand_in: StandIn) -> None:
    model = built("lora")
    rounds(model, PLAN, 1)
    parameter = model.trained[0]
    parameter.data = parameter.data.clone()
    rounds(model, PLAN, 1)
    assert stand_in.recorded == 2
    parameter.requires_grad_(False)
    rounds(model, PLAN, 1)
    assert stand_in.recorded == 3


def test_a_copy_has_no_passes_of_the_original(stand_in: StandIn) -> None:
    model = built("lora")
    rounds(model, PLAN, 1)
    other = copy.deepcopy(model)  # CUDA's cannot be copied
    assert vars(other)["recorded_passes"] is None
    assert recorded_passes(other) is not recorded_passes(model)
    assert recorded_passes(model) is recorded_passes(model)
    assert equal(rounds(other, PLAN), rounds(model, PLAN))


@pytest.mark.parametrize(("method", "plain"), [
    ("lora", True), ("prompt_src", True), ("prograd", False), ("logit_scale", True),
])  # fmt: skip
def test_methods_with_a_backward_pass_of_their_own_are_not_recorded(
    method: str, plain: bool
) -> None:
    assert can_be_recorded(built(method)) == plain


def test_recording_is_for_cuda_devices_and_not_for_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("coop")
    assert not objective._records(model, PLAN)
    monkeypatch.setattr(type(model.clip), "device", torch.device("cuda", 0))
    assert objective._records(model, PLAN)
    assert not objective._records(model, replace(PLAN, precision="float16"))
    assert not objective._records(model, replace(PLAN, cuda_graphs=False))
    assert not objective._records(built("prograd"), PLAN)
    recompute_activations(model.clip)
    assert not objective._records(model, PLAN)


@NEEDS_CUDA
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("method", [*PLAIN, "prompt_src", "full", "maple", "ivlp"])
def test_on_a_cuda_device_recorded_passes_train_the_same(
    monkeypatch: pytest.MonkeyPatch, method: str, precision: str
) -> None:
    replays = 0
    real = recorded_pass.RecordedPasses.parts

    def counted(*given: Any) -> Any:
        nonlocal replays
        found = real(*given)
        replays += found is not None
        return found

    monkeypatch.setattr(recorded_pass.RecordedPasses, "parts", counted)
    plan = replace(PLAN, precision=precision)
    recorded = rounds(built(method).to("cuda"), plan)
    assert replays == 2 * 13 - 8
    assert equal(recorded, rounds(built(method).to("cuda"), replace(plan, cuda_graphs=False)))


@NEEDS_CUDA
def test_on_a_cuda_device_batches_of_two_sizes_train_the_same() -> None:
    data = WORLD.split("train")
    some = LabelledImages(data.images[:15], data.labels[:15], data.domains[:15])
    found = []
    for recorded in (True, False):
        model = built("lora").to("cuda")
        plan = replace(PLAN, epochs=20, cuda_graphs=recorded)
        update, _ = local_train(model, some, plan)
        found.append(update.adapter)
    assert equal(found[:1], found[1:])


@NEEDS_CUDA
def test_on_a_cuda_device_a_pass_that_waits_trains_without_being_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = built("lora").to("cuda")
    encode = model.encode_classes

    def waits() -> Tensor:
        found = encode()
        assert found.sum().item() != 0.123
        return found

    monkeypatch.setattr(model, "encode_classes", waits)
    found = rounds(model, PLAN)
    assert "cannot be recorded" in caplog.text
    assert equal(found, rounds(built("lora").to("cuda"), replace(PLAN, cuda_graphs=False)))
    assert equal(found, rounds(built("lora").to("cuda"), PLAN))
