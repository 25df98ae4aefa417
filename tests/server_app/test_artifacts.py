"""What a finished run leaves: the adapter it is told to, and one folder for each calibrator."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from fl2ora.calibration.calibrators.temperature import Temperature
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.plugins import load
from fl2ora.server_app.artifacts import save_exported, save_fitted


def test_the_adapter_that_is_named_is_exported_whatever_the_model_holds(tmp_path: Path) -> None:
    classifier = build_classifier("embedded", "lora", ["cat", "dog"], ["a {}."], 0)
    adapter = {name: tensor + 0.5 for name, tensor in classifier.export().items()}
    save_exported(tmp_path, RunConfig(), load("lora", TuningMethod), classifier, adapter)
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    found = {name: tensor.double().sum().item() for name, tensor in saved.items()}
    expected = {name: tensor.double().sum().item() for name, tensor in adapter.items()}
    assert sorted(found.values()) == sorted(expected.values())


def test_a_second_fit_replaces_that_of_its_own_spec_alone(tmp_path: Path) -> None:
    def fit(spec: str, beta: float) -> str:
        parameters = {"inverse_temperature": torch.tensor(beta, dtype=torch.float64)}
        return save_fitted(tmp_path, spec, Temperature(), parameters, 4).name

    # Both would be called temperature.
    names = [fit("temperature", 0.5), fit("temperature()", 0.6), fit("temperature", 0.7)]
    assert names == ["temperature", "temperature-2", "temperature"]
    for name, spec, beta in (
        ("temperature", "temperature", 0.7),
        ("temperature-2", "temperature()", 0.6),
    ):
        folder = tmp_path / "calibrators" / name
        assert json.loads((folder / "calibrator.json").read_text())["spec"] == spec
        (parameters,) = folder.glob("*.safetensors")
        assert load_file(parameters)["inverse_temperature"].item() == beta
