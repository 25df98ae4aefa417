"""``fl2ora run --resume`` as a person types it."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest

from command_line import Command, fl2ora
from fl2ora.reporting.events import read_lines
from fl2ora.server_app.checkpoint import rounds_saved
from power_cuts import assert_same_results

QUICK = [
    "run", "--engine", "in-process", "--clients", "2",
    "--set", "dataset=shapes(styles='held-back', train=48, validation=16, test=24)",
    "--set", "partition=iid", "--set", "workers=1", "--set", "resamples=3",
    "--set", "callbacks=summary", "--set", "strategy=feddyn", "--set", "learning-rate=0.3",
]  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where run ``cut`` was ended by SIGTERM in its first round of four."""
    folder = tmp_path_factory.mktemp("work")
    rounds = ("--set", "num-rounds=4")
    assert fl2ora(folder, *QUICK, *rounds, "--set", "run-name=whole").returncode == 0
    command = Command(folder, *QUICK, *rounds, "--set", "run-name=cut")
    events = folder / "runs" / "cut" / "events.jsonl"
    while command.running() and not any(e["event"] == "client" for e in read_lines(events)):
        time.sleep(0.01)
    command.send(signal.SIGTERM)
    done = command.wait()
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"interrupted: ended after round 1 of 4, asked to by SIGTERM; to go on: fl2ora run "
        f"--resume {folder / 'runs' / 'cut'}"
    )
    return folder


def test_a_run_ended_at_once_says_how_to_go_on_from_its_checkpoint(tmp_path: Path) -> None:
    command = Command(tmp_path, *QUICK, "--set", "num-rounds=1000", "--set", "run-name=cut")
    folder = tmp_path / "runs" / "cut"
    while command.running() and len(rounds_saved(folder)) < 2:
        time.sleep(0.01)
    command.send(signal.SIGINT)
    done = command.wait()
    assert done.returncode == 130, done.stderr
    said = (
        rf"interrupted: ended at once, the last checkpoint is of round (\d+); "
        rf"to go on: fl2ora run --resume {re.escape(str(folder))}"
    )
    found = re.fullmatch(said, done.stderr.splitlines()[-1])
    assert found, done.stderr
    assert int(found[1]) == rounds_saved(folder)[-1]


def test_before_the_first_checkpoint_there_is_nothing_to_go_on_with(tmp_path: Path) -> None:
    command = Command(tmp_path, *QUICK, "--set", "run-name=cut", "--set", "checkpoint-every=0")
    events = tmp_path / "runs" / "cut" / "events.jsonl"
    while command.running() and not any(e["event"] == "client" for e in read_lines(events)):
        time.sleep(0.01)
    command.send(signal.SIGINT)
    done = command.wait()
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "interrupted")


def test_it_goes_on_where_it_was(work: Path) -> None:
    done = fl2ora(work, "run", "--engine", "in-process", "--resume", "runs/cut", "--json")
    assert done.returncode == 0, done.stderr
    assert "going on after round 1" in done.stderr
    assert "round 4/4" in done.stderr
    assert "round 1/4" not in done.stderr  # what was shown before is not shown again
    assert json.loads(done.stdout)["run_dir"] == str(work / "runs" / "cut")
    assert_same_results(work / "runs" / "cut", work / "runs" / "whole", summary=False)
    assert not list(work.glob("runs/*-failed"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resume", "runs/nowhere"], "runs/nowhere: expected the folder of a run"),
        (["--resume", "runs"], "runs: expected the folder of a run, found no run.json"),
        (["--resume", "runs/whole"], "has finished and has done all its 4 rounds"),
        (
            ["--resume", "runs/whole", "--set", "seed=5", "--set", "num-rounds=5"],
            "seed: expected 0, found 5",
        ),
        (["--resume", "runs/whole", "--set", "num-rounds=2"], "num-rounds: expected at least 4"),
        (["--resume", "runs/whole", "--clients", "3"], "num-clients: expected 3"),
        (["--force"], "--force: expected --resume RUN_DIR"),
        (["--set", "resume=runs/whole"], "strategy: expected 'feddyn', found 'fedavg'"),
    ],
)
def test_what_cannot_go_on_is_one_message(work: Path, arguments: list[str], words: str) -> None:
    before = sorted(path for path in work.rglob("*"))
    done = fl2ora(work, "run", "--engine", "in-process", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert sorted(path for path in work.rglob("*")) == before


def test_the_file_for_flower_s_own_command_holds_all_settings(work: Path) -> None:
    file = work / "runs" / "whole" / "resume.toml"
    done = fl2ora(work, "run", str(file), "--engine", "in-process", "--clients", "2")
    assert done.returncode == 2
    assert "has finished and has done all its 4 rounds" in done.stderr
