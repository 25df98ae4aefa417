from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Done, fl2ora

QUICK = [
    "--engine", "in-process", "--clients", "2",
    "--set", "dataset=shapes(styles='held-back', train=64, validation=16, test=32)",
    "--set", "partition=iid", "--set", "num-rounds=1", "--set", "workers=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("work")
    config = folder / "my.toml"
    config.write_text("num-rounds = 7\nlearning-rate = 0.2\n")
    calibrated = ["--set", "calibrator=temperature"]
    return folder, fl2ora(folder, "run", str(config), *QUICK, *calibrated, "--json")


def test_the_last_line_is_json_with_the_promised_keys(
    done: tuple[Path, Done],
) -> None:
    folder, process = done
    assert process.returncode == 0, process.stderr
    outcome = json.loads(process.stdout.strip().splitlines()[-1])
    assert outcome.keys() == {
        "run_dir", "rounds", "updates", "asked", "warning", "final", "calibrated",
    }  # fmt: skip
    assert (outcome["updates"], outcome["asked"], outcome["warning"]) == (2, 2, "")
    assert outcome["calibrated"]["accuracy"] == outcome["final"]["accuracy"]
    assert outcome["calibrated"]["nll"] < outcome["final"]["nll"]
    assert outcome["rounds"] == 1, "--set wins over the file"
    run_dir = Path(outcome["run_dir"])
    assert run_dir.is_absolute()
    assert run_dir.parent == folder / "runs"
    assert {"accuracy", "ece", "mce", "nll"} <= outcome["final"].keys()
    config = json.loads((run_dir / "run.json").read_text())["config"]
    assert config["learning-rate"] == 0.2


def test_a_person_sees_the_rounds_and_the_table(
    done: tuple[Path, Done],
) -> None:
    text = done[1].stderr
    assert "2 clients with 46 training images" in text
    assert "zero-shot" in text
    assert "round 1/1" in text
    for column in ("accuracy", "ECE", "MCE", "NLL"):
        assert column in text
    assert "Run directory: " in text
    table = text[text.index("Central held-out set") :]
    assert [line.split()[1] for line in table.splitlines() if line.startswith("│")] == [
        "zero-shot", "1", "calibrated",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--set", "num-roundz=3", "--set", "seed=-1"],
            ["2 problems", "did you mean 'num-rounds'"],
        ),
        (["--set", "method=lroa()"], ["clip_tuning/methods has no 'lroa'", "did you mean 'lora'"]),
        (["--set", "learning-rate=fast"], ["learning-rate: expected float, found 'fast' (str)"]),
        (["missing.toml"], ["missing.toml: cannot be read"]),
        (["--set", "model=./nowhere"], ["model: folder '/", "/nowhere' does not exist"]),
        (
            ["--set", "dataset=fashion_mnist(folder='/nowhere')"],
            ["/nowhere", "dataset-fashion-mnist"],
        ),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    process = fl2ora(tmp_path, "run", "--engine", "in-process", *arguments)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr + process.stdout
    for word in words:
        assert word in process.stderr


def test_doctor_says_what_the_machine_has(tmp_path: Path) -> None:
    process = fl2ora(tmp_path, "doctor")
    for word in ("Python", "torch", "flwr", "Ray", "devices", "disk", "embedded CLIP"):
        assert word in process.stdout
    assert process.returncode in (0, 1)
    assert (process.returncode == 1) == (" found" in process.stdout.splitlines()[-1])


def test_a_plug_in_in_the_folder_one_stands_in_is_found(tmp_path: Path) -> None:
    (tmp_path / "my_lab.py").write_text(
        "from fl2ora.strategies.averaging.fedavg import FedAvg\n\n\nclass Mine(FedAvg):\n    pass\n"
    )
    settings = ["--set", "strategy=my_lab:Mine(weighting='uniform')", "--set", "callbacks=none"]
    process = fl2ora(tmp_path, "run", *QUICK, *settings)
    assert process.returncode == 0, process.stderr
    assert "round 1/1" in process.stdout


@pytest.mark.parametrize(
    ("largest_file", "written"),
    [
        (500, set()),  # bytes; run.json has more
        # global.safetensors has more, and so has a checkpoint
        (30_000, {"run.json", "run.log", "resume.toml", "events.jsonl", "metrics.jsonl"}),
    ],
)
def test_a_disk_that_fills_up_is_one_message(
    tmp_path: Path, largest_file: int, written: set[str]
) -> None:
    process = fl2ora(tmp_path, "run", *QUICK, largest_file=largest_file)
    assert process.returncode == 2, process.stderr
    assert sum(line.startswith("error: ") for line in process.stderr.splitlines()) == 1
    assert "too large" in process.stderr
    assert "Traceback" not in process.stderr
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == written


def test_a_disk_that_fills_up_under_calibrate_is_one_message(
    done: tuple[Path, Done], tmp_path: Path
) -> None:
    run_dir = json.loads(done[1].stdout.splitlines()[-1])["run_dir"]
    process = fl2ora(tmp_path, "calibrate", run_dir, "--calibrator", "platt", largest_file=60)
    assert process.returncode == 2
    assert process.stderr.startswith("error: the system refused: ")
    assert "Traceback" not in process.stderr
    assert not (Path(run_dir) / "calibrators" / "platt").exists()
