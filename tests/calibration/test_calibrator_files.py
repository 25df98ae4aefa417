"""Calibrators on disk: round trips, and errors that name file and key."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fl2ora.calibration.calibrators.base import CalibrationContext
from fl2ora.calibration.calibrators.files import build_calibrator, load_calibrator, save_calibrator
from fl2ora.calibration.calibrators.fitting import fit
from fl2ora.calibration.calibrators.temperature import Temperature

torch.set_num_threads(1)

SPECS = [
    "temperature",
    "vector(ridge=0.01)",
    "matrix",
    "dirichlet(off_diagonal=0.1)",
    "ensemble(objective='ce', weight_steps=3)",
    "histogram_binning(bins=7, laplace=True)",
    "isotonic(bins=50)",
    "bbq(bins=[1, 2, 5], pseudo_count=1.5)",
    "beta",
    "platt(smooth=False)",
    "parametrised_temperature(steps=3, hidden=4)",
    "order_preserving(steps=3)",
    "spline(bins=40, knots=4)",
    "sals",
    "dac(neighbours=2)",
    "zero_shot_temperature",
    "conformal(score='aps', alpha=0.2)",
    "zero_shot_temperature(temperature=1.3)",
]


def data():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(60, 3, generator=generator)
    return logits, torch.randint(0, 3, (60,), generator=generator)


def context_of(logits):
    base, moved = torch.eye(3), torch.tensor([[0.6, 0.8, 0], [0, 0.6, 0.8], [0.8, 0, 0.6]])
    return CalibrationContext(
        zero_shot_logits=logits / 2, text_features=-moved, zero_shot_text_features=moved,
        base_text_features=base, base_zero_shot_text_features=base,
    )  # fmt: skip


def saved(folder, spec="temperature"):
    logits, labels = data()
    parameters = fit(build_calibrator(spec), [(logits, labels)], [context_of(logits)])
    save_calibrator(folder, spec, parameters, 3)
    return parameters


@pytest.mark.parametrize("spec", SPECS)
def test_a_loaded_calibrator_does_what_the_saved_one_did(spec, tmp_path):
    folder = tmp_path / "new" / "folder"
    parameters = saved(folder, spec)
    loaded = load_calibrator(folder)
    assert loaded.spec == spec
    assert loaded.parameters.keys() == parameters.keys()
    assert all(torch.equal(loaded.parameters[name], parameters[name]) for name in parameters)
    logits, _ = data()
    context, calibrator = context_of(logits), build_calibrator(spec)
    wanted = calibrator.apply(logits, parameters, context=context)
    assert torch.equal(loaded(logits, context), wanted)
    unchanged = torch.allclose(wanted, logits.double().log_softmax(1))
    assert unchanged is spec.startswith("conformal")  # whose answers are sets
    assert torch.equal(
        loaded.confidence(logits, context),
        calibrator.confidence(logits, parameters, context=context),
    )
    assert torch.equal(
        loaded.predictions(logits, context),
        calibrator.predictions(logits, parameters, context=context),
    )


def test_all_calibrators_are_saved_above():
    stems = {spec.split("(")[0] for spec in SPECS}
    assert len(stems) == 17


def test_files_of_a_saved_calibrator(tmp_path):
    parameters = saved(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "calibrator.json", "calibrator.safetensors",
    ]  # fmt: skip
    assert json.loads((tmp_path / "calibrator.json").read_text()) == {
        "format": "fl2ora calibrator", "version": 1, "spec": "temperature", "num_classes": 3,
    }  # fmt: skip
    tensors = load_file(tmp_path / "calibrator.safetensors")
    assert torch.equal(tensors["inverse_temperature"], parameters["inverse_temperature"])


def test_logits_of_another_number_of_classes_are_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(ValueError, match=r"logits: expected shape \(N, 3\), found \(1, 4\)"):
        load_calibrator(tmp_path)(torch.zeros(1, 4))


def test_parameters_of_another_calibrator_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"expected \['inverse_temperature'\], found \['weight'\]"):
        save_calibrator(tmp_path, "temperature", {"weight": torch.zeros(3)}, 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("change", "message"), [
    ({"format": "other"}, "format: expected 'fl2ora calibrator', found 'other'"),
    ({"version": 2}, "version: expected 1, found 2"),
    ({"spec": 3}, "spec: expected a string, found 3"),
    ({"num_classes": "3"}, "num_classes: expected a whole number, found '3'"),
    ({"num_classes": True}, "num_classes: expected a whole number, found True"),
    ({"num_classes": 1}, "num_classes: expected at least 2, found 1"),
    ({"spec": "nothing"}, "expected one of bbq, beta, .*, found 'nothing'"),
    ({"spec": "temperature(kelvin=1)"}, "unexpected keyword argument 'kelvin'"),
])  # fmt: skip
def test_a_changed_description_is_refused(change, message, tmp_path):
    saved(tmp_path)
    path = tmp_path / "calibrator.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load_calibrator(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", '"temperature"'])
def test_a_damaged_description_is_refused(text, tmp_path):
    saved(tmp_path)
    (tmp_path / "calibrator.json").write_text(text)
    with pytest.raises(ValueError, match=r"calibrator\.json: expected (JSON|a JSON object)"):
        load_calibrator(tmp_path)


@pytest.mark.parametrize(("tensors", "message"), [
    ({}, r"calibrator\.safetensors: parameters: expected \['inverse_temperature'\]"),
    ({"inverse_temperature": torch.ones(2).double()}, r"temperature': expected shape \(\)"),
    ({"inverse_temperature": torch.tensor(1.0)}, "'inverse_temperature': expected float64"),
    ({"inverse_temperature": torch.tensor(torch.nan).double()}, "expected finite values"),
])  # fmt: skip
def test_changed_tensors_are_refused(tensors, message, tmp_path):
    saved(tmp_path)
    save_file(tensors, tmp_path / "calibrator.safetensors")
    with pytest.raises(ValueError, match=message):
        load_calibrator(tmp_path)


def test_damaged_tensors_are_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / "calibrator.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"calibrator\.safetensors: expected a safetensors file"):
        load_calibrator(tmp_path)


def test_descriptions_nested_without_end_are_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / "calibrator.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"calibrator\.json: expected JSON"):
        load_calibrator(tmp_path)
    nested = "temperature(" + "(" * 100_000 + ")" * 100_000 + ")"
    description = {"format": "fl2ora calibrator", "version": 1, "spec": nested, "num_classes": 3}
    (tmp_path / "calibrator.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"expected name\(argument=literal\), found .*\.\.\.'$"):
        load_calibrator(tmp_path)


@pytest.mark.parametrize("name", ["calibrator.json", "calibrator.safetensors"])
def test_a_missing_file_is_named(name, tmp_path):
    saved(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_calibrator(tmp_path)


@pytest.mark.parametrize("spec", [
    "", "a b", "os.path", "temperature()()", "temperature(x=open)", "3", "vector(**{})",
    "vector(*[1])", "base", "files", "_affine", "__import__('os')", "../temperature",
])  # fmt: skip
def test_specs_that_are_no_calibrator_are_refused(spec):
    with pytest.raises(ValueError, match="calibrator"):
        build_calibrator(spec)


@pytest.mark.parametrize("spec", ["beta(a=1)", "beta(True, True)", "sals(1)"])
def test_arguments_that_are_not_taken_are_refused_with_those_that_are(spec):
    with pytest.raises(ValueError, match="it takes"):
        build_calibrator(spec)


def test_arguments_reach_the_calibrator():
    assert build_calibrator("histogram_binning(20, laplace=True)").bins == 20
    assert build_calibrator(" bbq(bins=[1, 2]) ").grid == 2
    assert build_calibrator("histogram-binning(bins=3)").bins == 3


def test_a_calibrator_from_elsewhere_needs_its_own_builder(tmp_path):
    class Outside(Temperature):
        pass

    parameters = saved(tmp_path / "inside")
    build = {"my_lab:Outside": Outside()}.__getitem__
    save_calibrator(tmp_path, "my_lab:Outside", parameters, 3, build=build)
    with pytest.raises(ValueError, match="my_lab:Outside"):
        load_calibrator(tmp_path)
    assert isinstance(load_calibrator(tmp_path, build=build).calibrator, Outside)
