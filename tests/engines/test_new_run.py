"""Starting a run: what the settings leave open, whose folder it is, and the public function."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import fl2ora
from fl2ora.commands.settings import read_settings
from fl2ora.engines.new_run import claimed, described
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.flower_table import table
from fl2ora.reporting.events import JsonLines
from fl2ora.reporting.run_directory import OUTPUT_VARIABLE, create_run_directory
from fl2ora.reporting.tables import metrics_table
from runs import SMALL


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder, without the environment's choice of another."""
    monkeypatch.delenv(OUTPUT_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_go_where_the_settings_say_else_the_environment_else_here(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert described({}, 2)[0].output_dir == str(here / "runs")
    monkeypatch.setenv(OUTPUT_VARIABLE, "/data/runs")
    assert described({}, 2)[0].output_dir == "/data/runs"
    assert described({"output-dir": ""}, 2)[0].output_dir == "/data/runs"
    assert described({"output-dir": "/other"}, 2)[0].output_dir == "/other"
    monkeypatch.setenv(OUTPUT_VARIABLE, "mine")
    assert described({}, 2)[0].output_dir == str(here / "mine")


@pytest.mark.parametrize("folder", ["~nosuchuser/x", "a\nb", "x" * 300])
def test_an_environment_that_names_no_folder_is_told(
    monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv(OUTPUT_VARIABLE, folder)
    _, problems = described({"seed": -1}, 2)
    assert [problem.partition(":")[0] for problem in problems] == ["$FL2ORA_OUTPUT_DIR", "seed"]


def test_the_number_of_clients_must_agree() -> None:
    assert described({}, 3)[0].num_clients == 3
    assert described({"num-clients": 0}, 3) == (described({"num-clients": 0}, 9)[0], ())
    _, problems = described({"num-clients": 20, "seed": -1}, 3)
    assert [problem.partition(":")[0] for problem in problems] == ["seed", "num-clients"]


def test_more_clients_cannot_be_needed_than_there_are() -> None:
    assert described({"min-train-clients": 3}, 3)[1] == ()
    (problem,) = described({"min-train-clients": 4}, 3)[1]
    assert problem == "min-train-clients: expected at most 3, the number of clients, found 4"


@pytest.mark.parametrize("clients", [0, -1, 2.5, True])
def test_a_run_needs_a_client(here: Path, clients: int) -> None:
    """Without this check a run would wait for nodes that never come."""
    with pytest.raises(UserError, match="clients: expected a whole number of at least 1, found"):
        fl2ora.run({"num-clients": 0}, clients=clients)
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("lora", "settings: expected keys of the run config with their values, found 'lora'"),
        ([("num-rounds", 1)], r"settings: expected keys .* found \[\('num-rounds', 1\)\]"),
        ({1: 2}, "1: unknown key"),
    ],
)
def test_settings_that_are_none_are_told(settings: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        fl2ora.run(settings, clients=2)


def test_a_wrong_number_of_clients_is_told_once() -> None:
    assert len(described({}, 2.5)[1]) == 1  # type: ignore[arg-type]


def test_paths_of_the_python_function_are_those_of_the_command_line(here: Path) -> None:
    """A ``Path``, and texts relative to the current directory, also within specs."""
    settings = {
        **SMALL,
        "num-rounds": 1,
        "output-dir": Path("mine"),
        "cache-dir": "kept",
        "model": "./none",
    }
    with pytest.raises(UserError, match=rf"model: folder '{here}/none' does not exist"):
        fl2ora.run(settings, clients=2)
    (here / "start").mkdir()
    settings |= {"model": "embedded", "method": "lora(start='start')"}
    with pytest.raises(UserError, match=rf"none at '{here}/start'"):
        fl2ora.run(settings, clients=2)
    folder = fl2ora.run({**settings, "method": "layer_norm"}, clients=2)
    assert folder.parent == here / "mine"
    assert (here / "kept").is_dir()


def test_the_documented_defaults_can_be_run_as_they_are(here: Path) -> None:
    file = here / "run.toml"
    file.write_text(table(), encoding="utf-8")
    config, problems = described(read_settings(file, []), 4)
    assert problems == ()
    with claimed(config) as (named, folder):
        assert named.run_name.endswith("-lora-fedavg")
        assert folder == here / "runs" / named.run_name
        assert folder.is_dir()
    assert not folder.exists(), "left empty"


def test_runs_of_one_second_have_folders_of_their_own(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "noon")
    config, _ = described({}, 2)
    with claimed(config) as (first, _), claimed(config) as (second, _):
        assert (first.run_name, second.run_name) == ("noon-lora-fedavg", "noon-lora-fedavg-2")
        create_run_directory(first, 1)
        create_run_directory(second, 2)
    assert len(list((here / "runs").iterdir())) == 2


def test_a_name_that_is_taken_is_refused_before_anything_starts(here: Path) -> None:
    config, _ = described({"run-name": "mine"}, 2)
    with claimed(config) as (named, folder):
        assert named == config
        create_run_directory(named, 1)
    with pytest.raises(UserError, match=r"run-name: .*mine holds a run that may"), claimed(config):
        pass
    JsonLines(folder).log("failed")
    with claimed(config) as (named, _):
        create_run_directory(named, 2)


def test_the_public_function_runs_an_experiment(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {**SMALL, "num-rounds": 1, "run-name": "mine", "callbacks": "none"}
    with pytest.raises(UserError, match="2 clients with at least 1000 examples each"):
        fl2ora.run({**settings, "partition": "dirichlet(minimum=1000)"}, clients=2)
    folder = fl2ora.run(settings, clients=2)
    assert folder == here / "runs" / "mine"
    rows = metrics_table(folder)
    assert list(rows[rows["source"] == "server-test"]["round"]) == [0, 1]
    assert (here / "runs" / "mine-failed" / "events.jsonl").exists()
    assert capfd.readouterr().out == ""


def test_the_public_function_tells_all_mistakes_at_once(here: Path) -> None:
    settings = {"method": "lroa", "seed": -1, "num-clients": 3}
    with pytest.raises(UserError) as caught:
        fl2ora.run(settings, clients=2)
    assert str(caught.value).startswith("3 problems")
    assert not (here / "runs").exists()
