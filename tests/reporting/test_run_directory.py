"""The folder of a run: where it lies, what it says, and that it is never written over."""

from __future__ import annotations

import json
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.fingerprint import code_fingerprint, library_versions
from fl2ora.reporting.events import JsonLines
from fl2ora.reporting.run_directory import (
    OUTPUT_VARIABLE,
    claim_name,
    create_run_directory,
    runs_root,
)


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
    assert str(caught.value) == (
        f"run-name: {tmp_path / 'run'} holds a run that may still be going on; if not, "
        f"--resume {tmp_path / 'run'} goes on with it: "
        "choose another name, or take the folder away"
    )
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("events", "words"),
    [(["start", "finished"], "a finished run"), (["start"], "a run that may still be going on")],
)
def test_a_run_that_did_not_fail_keeps_its_name(
    tmp_path: Path, events: list[str], words: str
) -> None:
    config = _config(output_dir=str(tmp_path), run_name="run")
    folder = create_run_directory(config, 1)
    for event in events:
        JsonLines(folder).log(event)
    with pytest.raises(UserError, match=f"holds {words}"):
        create_run_directory(config, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_somebody_s_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds other files: "):
        create_run_directory(_config(output_dir=str(tmp_path), run_name="run"), 1)


def test_a_failed_run_gives_its_name_up_and_keeps_its_files(tmp_path: Path) -> None:
    config = _config(output_dir=str(tmp_path), run_name="run")
    for number in range(3):
        folder = create_run_directory(config, number)
        JsonLines(folder).log("failed", message="no such folder")
    names = {path.name: json.loads((path / "run.json").read_text()) for path in tmp_path.iterdir()}
    assert {name: found["run_id"] for name, found in names.items()} == {
        "run-failed": "0", "run-failed-2": "1", "run": "2",
    }  # fmt: skip


def test_a_folder_with_nothing_but_flower_s_log_is_a_failed_run_s(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "superlink.log").touch()
    create_run_directory(_config(output_dir=str(tmp_path), run_name="run"), 1)
    assert (tmp_path / "run-failed" / "superlink.log").exists()


@pytest.mark.parametrize("failed_before", [False, True])
def test_of_many_runs_with_one_name_one_gets_the_folder(
    tmp_path: Path, failed_before: bool
) -> None:
    config = _config(output_dir=str(tmp_path), run_name="run")
    if failed_before:
        JsonLines(create_run_directory(config, 99)).log("failed")
    start = threading.Barrier(8)

    def attempt(run_id: int) -> int | None:
        start.wait()
        try:
            create_run_directory(config, run_id)
        except UserError:
            return None
        return run_id

    with ThreadPoolExecutor(8) as pool:
        winners = [run_id for run_id in pool.map(attempt, range(8)) if run_id is not None]
    assert len(winners) == 1
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["run_id"] == str(winners[0])


def test_names_claimed_in_one_second_differ(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: claim_name(tmp_path / "deep", "noon"), range(8)))
    assert sorted(names) == sorted(["noon", *(f"noon-{number}" for number in range(2, 9))])
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == sorted(names)


def test_a_record_that_cannot_be_written_in_full_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(output_dir=str(tmp_path), run_name="run")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(UserError, match=r"output-dir: cannot write to .*File too large"):
            create_run_directory(config, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "run").iterdir()) == []
    create_run_directory(config, 2)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match=f"output-dir: cannot write to {folder}/file: "):
            create_run_directory(_config(output_dir=str(folder), run_name="file"), 1)
