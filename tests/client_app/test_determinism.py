"""Training repeats bit by bit; on a CUDA device that takes other kernels, and is put back after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app import training
from fl2ora.client_app.determinism import repeatable
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.shapes import Shapes

PLAN = TrainingPlan(CrossEntropy(), batch_size=8, learning_rate=0.1, client="a", seed=1)


def test_the_processor_is_left_as_it_is() -> None:
    fused = torch.backends.cuda.flash_sdp_enabled()
    with repeatable(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cuda.flash_sdp_enabled() == fused


def test_a_cuda_device_is_told_and_everything_is_put_back() -> None:
    settings: Any = torch.utils.deterministic
    with repeatable(torch.device("cuda", 0)):
        assert torch.are_deterministic_algorithms_enabled()
        # With warnings alone, torch's fused attention does not repeat.
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not settings.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert settings.fill_uninitialized_memory
    with repeatable(torch.device("cuda"), wanted=False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_that_cannot_repeat_is_refused_by_name() -> None:
    device = torch.device("cuda")
    refusal = "found put_, which does not; deterministic=false"
    with pytest.raises(UserError, match=refusal), repeatable(device):
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="anything else"), repeatable(device):
        raise RuntimeError("anything else")


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
