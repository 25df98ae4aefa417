"""The eight changes of docs/extending.md, made as the page says and tried in small runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from command_line import FL2ORA, Command, Done, imported_from
from documented import ROOT, Block, blocks, patched, patched_file, save_files
from fl2ora.reporting.events import read_lines
from fl2ora.reporting.tables import metrics_table
from power_cuts import assert_same_results, going_on, interrupted, undisturbed
from runs import events, final_adapter, run_small

PAGE = ROOT / "docs" / "extending.md"
BLOCKS = blocks(PAGE)
ONE_ROUND = {"clients": 2, "num_rounds": 1, "callbacks": "none"}


@pytest.fixture
def lab(scratch: Path) -> Path:
    """Return the current folder, with all files of the page in it."""
    assert len(save_files(PAGE, scratch)) >= 8
    return scratch


def diff_of(file: str) -> Block:
    (found,) = [b for b in BLOCKS if b.language == "diff" and patched_file(b) == file]
    return found


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    """Return a copy of the repository's code, to be changed."""
    folder = tmp_path / "fork"
    folder.mkdir()
    for link in (ROOT / "fl2ora").iterdir():
        if link.is_symlink():
            shutil.copytree(ROOT / link.name, folder / link.name)
    shutil.copytree(ROOT / "fl2ora", folder / "fl2ora", symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def in_fork(fork: Path, *words: str) -> Done:
    """Run ``fl2ora`` of the copy on little data."""
    small = [
        "run", "--engine", "in-process", "--clients", "2", "--json", "--set", "num-rounds=1",
        "--set", "dataset=shapes(styles='held-back', train=48, validation=16, test=32)",
        "--set", "partition=iid", "--set", "resamples=5", "--set", "callbacks=summary",
        "--set", "workers=1",
    ]  # fmt: skip
    code = imported_from(fork) + FL2ORA
    return Command(fork.parent, *small, *words, code=code).wait()


def patch(fork: Path, file: str) -> None:
    path = fork / file
    path.write_text(patched(diff_of(file), path.read_text(encoding="utf-8")), encoding="utf-8")


def test_1_clients_with_a_memory_stay_near_it(lab: Path) -> None:
    strategy = "my_lab.strategies:FedStay(mu={})"
    moved = {}
    for mu in (0.0, 5.0):
        settings = {"clients": 2, "num_rounds": 2, "callbacks": "none"}
        run = run_small(lab / str(mu), strategy=strategy.format(mu), **settings)
        moved[mu] = final_adapter(run)
        penalties = ["loss_penalty" in event for event in events(run, "client")]
        assert penalties == [False, False, True, True]  # in its first round a client has no memory
    assert any(not torch.equal(moved[0.0][name], tensor) for name, tensor in moved[5.0].items())


@pytest.mark.slow
def test_2_a_metric_stands_in_every_table(fork: Path) -> None:
    patch(fork, "calibration/metrics/table.py")
    save_files(PAGE, fork)
    result = in_fork(fork)
    assert result.returncode == 0, result.stderr
    folder = Path(json.loads(result.stdout.splitlines()[-1])["run_dir"])
    row = next(r for r in read_lines(folder / "metrics.jsonl") if r["source"] == "server-test")
    assert row["net_gap"] == pytest.approx(row["confidence"] - row["accuracy"], abs=1e-12)
    assert {"net_gap_low", "net_gap_high"} <= row.keys()
    assert (folder / "summary.md").read_text(encoding="utf-8").count("| net gap |") >= 4
    assert "net_gap" in metrics_table(folder).columns


def test_3_a_data_set_from_one_file(lab: Path) -> None:
    (maker,) = [b for b in BLOCKS if "np.savez" in b.text]
    exec(maker.text, {})
    spec = f"my_lab.data:Arrays(file={str(lab / 'photos.npz')!r})"
    folder = run_small(lab, dataset=spec, **ONE_ROUND)
    (nodes,) = events(folder, "nodes")
    assert sum(node["train"] + node["test"] for node in nodes["nodes"]) < 90  # some calibrate
    row = next(r for r in read_lines(folder / "metrics.jsonl") if r["source"] == "server-test")
    assert row["num_examples"] == 30


def test_4_a_method_with_its_own_loss(lab: Path) -> None:
    folder = run_small(lab, method="my_lab.methods:L2SP", learning_rate=0.0, **ONE_ROUND)
    assert all(event["loss_method"] >= 0 for event in events(folder, "client"))
    assert any(event["loss_method"] > 0 for event in events(folder, "client"))
    assert all("norm" in name for name in final_adapter(folder))


def test_5_a_tracker_writes_every_number(lab: Path) -> None:
    settings = {**ONE_ROUND, "callbacks": "traffic + my_lab.callbacks:Scalars"}
    folder = run_small(lab, **settings)
    head, *lines = (folder / "scalars.csv").read_text(encoding="utf-8").splitlines()
    assert head == "step,tag,value"
    written = {tag: float(value) for _, tag, value in (line.split(",") for line in lines)}
    for row in read_lines(folder / "metrics.jsonl"):
        if row["round"] == 1:
            for name in row.keys() - {"round", "source"}:
                found = written[f"{row['source']}/{name}"]
                assert row[name] is None or found == row[name]


def test_6_what_a_callback_remembers_survives_a_resume(lab: Path) -> None:
    settings = {"clients": 2, "num_rounds": 3, "callbacks": "my_lab.smooth_loss:SmoothLoss"}
    whole = undisturbed(lab, **settings)
    interrupted(lab, 5, **settings)
    assert_same_results(going_on(lab, **settings), whole)
    smooth = [row["smooth_loss"] for row in read_lines(whole / "metrics.jsonl") if "loss" in row]
    losses = [row["loss"] for row in read_lines(whole / "metrics.jsonl") if "loss" in row]
    expected = 0.9 * (0.9 * losses[0] + 0.1 * losses[1]) + 0.1 * losses[2]
    assert smooth[2] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_7_a_command_line_option(fork: Path) -> None:
    patch(fork, "commands/run.py")
    result = in_fork(fork, "--seed", "7", "--set", "method=zero_shot")
    assert "Traceback" not in result.stderr
    (config,) = (fork.parent / "runs").glob("*/run.json")
    assert '"seed": 7' in config.read_text(encoding="utf-8")


@pytest.mark.parametrize("schedule", ["cosine(warm_up=0.1)", "my_lab.schedules:Halving(every=1)"])
def test_8_adamw_and_schedules(lab: Path, schedule: str) -> None:
    settings = {"optimiser": "adamw(weight_decay=0.01)", "learning_rate": 0.003}
    folder = run_small(lab, schedule=schedule, **settings, **ONE_ROUND)
    assert len(events(folder, "client")) == 2
