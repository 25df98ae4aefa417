"""``fl2ora run --resume`` as a person types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl2ora.reporting.events import read_lines
from power_cuts import assert_same_results

ROOT = Path(__file__).resolve().parents[2]
QUICK = [
    "--engine", "in-process", "--clients", "2",
    "--set", "dataset=shapes(styles='held-back', train=48, validation=16, test=24)",
    "--set", "partition=iid", "--set", "resamples=3", "--set", "callbacks=summary",
    "--set", "strategy=feddyn", "--set", "learning-rate=0.3",
]  # fmt: skip


def start(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    code = "from fl2ora.commands.app import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fl2ora(cwd: Path, *arguments: str) -> tuple[int, str, str]:
    process = start(cwd, *arguments)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where run ``cut`` was ended by SIGTERM in its first round of four."""
    folder = tmp_path_factory.mktemp("work")
    rounds = ("--set", "num-rounds=4")
    assert fl2ora(folder, *QUICK, *rounds, "--set", "run-name=whole")[0] == 0
    process = start(folder, *QUICK, *rounds, "--set", "run-name=cut")
    events = folder / "runs" / "cut" / "events.jsonl"
    while process.poll() is None and not any(e["event"] == "client" for e in read_lines(events)):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == (
        f"interrupted: ended after round 1 of 4, asked to by SIGTERM; to go on: fl2ora run "
        f"--resume {folder / 'runs' / 'cut'}"
    )
    return folder


def test_it_goes_on_where_it_was(work: Path) -> None:
    code, output, errors = fl2ora(work, "--engine", "in-process", "--resume", "runs/cut", "--json")
    assert code == 0, errors
    assert "going on after round 1" in errors
    assert "round 4/4" in errors
    assert "round 1/4" not in errors  # what was shown before is not shown again
    assert json.loads(output)["run_dir"] == str(work / "runs" / "cut")
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
    code, output, errors = fl2ora(work, "--engine", "in-process", *arguments)
    assert code == 2
    assert words in errors
    assert "Traceback" not in output + errors
    assert sorted(path for path in work.rglob("*")) == before


def test_the_file_for_flower_s_own_command_holds_all_settings(work: Path) -> None:
    file = work / "runs" / "whole" / "resume.toml"
    code, _, errors = fl2ora(work, str(file), "--engine", "in-process", "--clients", "2")
    assert code == 2
    assert "has finished and has done all its 4 rounds" in errors
