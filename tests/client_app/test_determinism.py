"""Training repeats bit by bit; on a CUDA device that takes other kernels, and is put back after."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app import determinism, training
from fl2ora.client_app.determinism import repeatable
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.federated_data.datasets.shapes import Shapes

PLAN = TrainingPlan(CrossEntropy(), batch_size=8, learning_rate=0.1, client="a", seed=1)


def test_the_processor_is_left_as_it_is() -> None:
    fused = torch.backends.cuda.flash_sdp_enabled()
    with repeatable(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cuda.flash_sdp_enabled() == fused


def test_a_cuda_device_is_told_and_everything_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[SDPBackend] = []
    real = determinism.sdpa_kernel

    def watched(backend: SDPBackend) -> object:
        asked.append(backend)
        return real(backend)

    monkeypatch.setattr(determinism, "sdpa_kernel", watched)
    with repeatable(torch.device("cuda", 0)):
        assert torch.are_deterministic_algorithms_enabled()
        assert asked == [SDPBackend.MATH]
    assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(torch.device("cuda"), wanted=False):
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("wanted", [True, False])
def test_the_plan_says_whether_training_is_to_repeat(
    monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    heard: list[bool] = []
    real = training.repeatable

    def watched(device: torch.device, *, wanted: bool) -> object:
        heard.append(wanted)
        return real(device, wanted=wanted)

    monkeypatch.setattr(training, "repeatable", watched)
    world = Shapes(styles="held-back", train=32, validation=16, test=16)
    model = build_classifier("embedded", "lora", world.class_names, world.templates, 0)
    local_train(model, world.split("train"), replace(PLAN, deterministic=wanted))
    assert heard == [wanted]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["lora", "layer_norm", "prompt_src", "full"])
def test_two_rounds_on_a_cuda_device_are_equal(method: str) -> None:
    world = Shapes(styles="held-back", train=64, validation=16, test=16)
    adapters = []
    for _ in range(2):
        model = build_classifier("embedded", method, world.class_names, world.templates, 0)
        update, _ = local_train(model.to("cuda"), world.split("train"), PLAN)
        adapters.append(update.adapter)
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())
