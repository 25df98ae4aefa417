"""The folder of a run: where it lies, what it says, and that it is never written over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.fingerprint import code_fingerprint, library_versions
from fl2ora.reporting.run_directory import OUTPUT_VARIABLE, create_run_directory, runs_root


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OUTPUT_VARIABLE, raising=False)


def _config(**values: Any) -> RunConfig:
    return RunConfig.from_flat({name.replace("_", "-"): value for name, value in values.items()})


def test_the_run_config_comes_before_the_environment_before_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert runs_root("") == tmp_path / "fl2ora-runs"
    monkeypatch.setenv(OUTPUT_VARIABLE, "/data/runs")
    assert runs_root("") == Path("/data/runs")
    assert runs_root("/other") == Path("/other")
    assert runs_root("~/mine") == tmp_path / "mine"
    monkeypatch.setenv(OUTPUT_VARIABLE, "")
    assert runs_root("") == tmp_path / "fl2ora-runs"


@pytest.mark.parametrize("text", ["runs", "./runs", "../runs", "."])
def test_a_relative_path_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="output-dir: expected an absolute path, found"):
        runs_root(text)
    monkeypatch.setenv(OUTPUT_VARIABLE, text)
    with pytest.raises(UserError, match="expected an absolute path"):
        runs_root("")


def test_a_home_that_is_unknown_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL2ORA_OUTPUT_DIR", "~nosuchuser/runs")
    with pytest.raises(UserError, match="output-dir: '~nosuchuser/runs': the home folder"):
        runs_root("")


def test_the_folder_says_what_the_run_is(tmp_path: Path) -> None:
    config = _config(output_dir=str(tmp_path / "deep" / "runs"), run_name="first", seed=7)
    folder = create_run_directory(config, 42)
    assert folder == tmp_path / "deep" / "runs" / "first"
    described = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert described == {
        "config": config.flat(),
        "run_id": "42",
        "fingerprint": code_fingerprint(),
        "versions": library_versions(),
    }
    assert RunConfig.from_flat(described["config"]) == config


def test_a_run_without_a_name_is_called_by_its_id(tmp_path: Path) -> None:
    large = 2**64 - 1
    folder = create_run_directory(_config(output_dir=str(tmp_path)), large)
    assert folder.name == str(large)
    assert json.loads((folder / "run.json").read_text())["run_id"] == str(large)


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path: Path) -> None:
    config = _config(output_dir=str(tmp_path), run_name="run")
    (tmp_path / "run").mkdir()
    create_run_directory(config, 1)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(UserError) as caught:
        create_run_directory(config, 2)
    assert str(caught.value) == f"run-name: {tmp_path / 'run'} exists already and is not empty"
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match=f"output-dir: cannot write to {folder}/file: "):
            create_run_directory(_config(output_dir=str(folder), run_name="file"), 1)
