"""``fl2ora evaluate``: what the run measured, and other data and classes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.saved_classifier import SavedClassifier
from fl2ora.commands.app import cli
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.results.saved_run import load_run
from runs import run_small

ONE_ROUND = {"clients": 2, "num_rounds": 1, "callbacks": "none"}
HELD_BACK = "shapes(styles='held-back', train=16, validation=16, test=16)"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    return run_small(root, calibrator="vector", protocol="base_to_new", **ONE_ROUND)


def adapter_of(folder: Path, method: str) -> Path:
    """Write the adapter with which a method begins, as one that stands alone."""
    names, templates = Shapes.class_names, Shapes.templates
    classifier = build_classifier("embedded", method, names, templates, 0)
    load(method, TuningMethod).save(classifier, folder)
    SavedClassifier("embedded", method, 0, names, templates).save(folder)
    return folder


def typed(*words: object) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, words)])


def outcome(*words: object) -> dict[str, Any]:
    found = typed(*words, "--json")
    assert found.exception is None, found.exception
    return dict(json.loads(found.stdout.splitlines()[-1]))


def test_on_the_runs_own_data_it_finds_what_the_run_found(finished: Path) -> None:
    parts = outcome(finished)["parts"]
    record = load_run(finished).metrics.set_index(["source", "round"])
    assert set(parts) == {"base", "new", "harmonic-mean"}
    for part, models in parts.items():
        source = f"server-test/{part}"
        rows = {"zero-shot": (source, 0), "tuned": (source, 1)}
        rows["calibrated"] = (f"{source}-calibrated", 1)
        # Those of new classes have no calibrated row: a vector belongs to the classes tuned on.
        assert ("calibrated" in models) == (part == "base")
        for model, values in models.items():
            expected = record.loc[rows[model]].dropna().to_dict()
            assert values == pytest.approx(expected, abs=1e-12), (part, model)
    notes = " ".join(outcome(finished)["notes"])
    assert "new: classified among its own 8 classes, 8 of them not tuned on" in notes
    assert "new: not calibrated: its parameters belong to the 8 classes" in notes


def test_the_table_names_each_part_and_can_be_written(finished: Path, tmp_path: Path) -> None:
    found = typed(finished, "--csv", tmp_path / "all.csv", "--metrics", "accuracy+auroc")
    assert found.exception is None
    text = " ".join(found.output.split())
    assert "base of shapes(" in text
    assert "AUROC" in text
    table = pd.read_csv(tmp_path / "all.csv")
    assert set(table["model"]) == {"zero-shot", "tuned", "calibrated"}
    tuned = table.query("part == 'new' and model == 'tuned'").iloc[0]
    assert tuned["accuracy_low"] < tuned["accuracy"] < tuned["accuracy_high"]
    assert not math.isnan(tuned["auroc"])
    assert "ece" not in table.columns


def test_a_file_that_cannot_be_written_is_told_first(finished: Path, tmp_path: Path) -> None:
    found = typed(finished, "--csv", tmp_path / "none" / "all.csv")
    assert "--csv: expected a file in a folder that is there" in str(found.exception)
    assert not found.stdout


def test_classes_in_another_order_and_spelling_are_mapped(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "adapter", "linear_probe")
    expected = outcome(adapter, "--dataset", HELD_BACK)
    assert expected["notes"] == []
    found = outcome(adapter, "--dataset", "tiny_datasets:Renamed")
    assert found["parts"] == expected["parts"]
    assert "test: its classes are those tuned on, in another spelling or order" in found["notes"][0]


def test_other_classes_are_classified_by_their_own_names(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "adapter", "lora")
    found = outcome(adapter, "--dataset", "tiny_datasets:Renamed('a thing')")
    assert "its own 16 classes, 1 of them not tuned on (a thing)" in found["notes"][0]
    known = outcome(adapter, "--dataset", HELD_BACK)["parts"]["test"]["tuned"]["confidence"]
    assert found["parts"]["test"]["tuned"]["confidence"] != known


def test_a_method_bound_to_its_classes_refuses_others(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "adapter", "linear_probe")
    found = typed(adapter, "--dataset", "tiny_datasets:Renamed('a thing')")
    assert isinstance(found.exception, UserError)
    assert "method 'linear_probe': expected one whose tensors serve" in str(found.exception)


def test_a_dataset_that_trains_on_its_test_images_can_be_measured(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "adapter", "lora")
    found = outcome(adapter, "--dataset", "tiny_datasets:Flawed(copies=3)")
    assert any("3 of the 40 held-out images are training images" in n for n in found["notes"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "dataset: expected one"),
        (["--dataset", "none"], "dataset: expected one to measure on, found 'none'"),
        (["--dataset", "shapess"], "has no 'shapess' .*did you mean 'shapes'"),
        (["--dataset", HELD_BACK, "--protocol", "base"], "has no 'base'"),
        (["--dataset", HELD_BACK, "--metrics", "eceee"], "metrics: .*eceee"),
        (["--dataset", HELD_BACK, "--calibrator", "platt"], "expected the fitted calibrator 'plat"),
        (["--dataset", HELD_BACK, "--device", "gpu"], "device: expected auto"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    adapter = adapter_of(tmp_path / "adapter", "bitfit")
    found = typed(adapter, *words, "--csv", tmp_path / "all.csv")
    assert isinstance(found.exception, UserError)
    assert not (tmp_path / "all.csv").exists()
    with pytest.raises(UserError, match=message):
        raise found.exception
