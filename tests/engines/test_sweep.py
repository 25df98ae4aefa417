"""Sweeps: what is run and what is not; kills, failed cells, other code and dead workers."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import fl2ora
from command_line import Command
from fl2ora.engines import sweep_cells
from fl2ora.engines.sweep import SweepRun
from fl2ora.engines.sweep_cells import Jobs
from fl2ora.engines.sweep_selection import chosen
from fl2ora.engines.sweep_view import SweepView
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.flower_table import toml_value
from fl2ora.experiment.sweep_file import read_sweep
from fl2ora.reporting.events import read_lines
from fl2ora.reporting.sweep_folder import SweepRecord, locked, state_of
from fl2ora.reporting.tables import metrics_table
from fl2ora.server_app.checkpoint import rounds_saved
from runs import SMALL, assert_equal_runs, events

FIXED: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if key not in ("seed", "learning-rate")},
    "callbacks": "traffic",
    "num-clients": 2,
    "num-rounds": 1,
}
NOT_ONE_UPDATE = {"name": "nothing usable", "max-update-norm": 1e-9}


def sweep_run(root: Path, content: dict[str, Any], workers: int = 1) -> tuple[SweepRun, Console]:
    console = Console(record=True, width=10_000, file=io.StringIO())
    jobs = Jobs(root)
    view = SweepView(console)
    return SweepRun(read_sweep(content), content, root, jobs, view, workers), console


def run(root: Path, content: dict[str, Any], workers: int = 1) -> tuple[SweepRecord, str]:
    """Run a sweep; return its record and what it said."""
    found, console = sweep_run(root, content, workers)
    record = found.run()
    return record, console.export_text()


def rows(folder: Path) -> list[dict[str, Any]]:
    return read_lines(folder / "metrics.jsonl")


def write_toml(path: Path, fixed: dict[str, Any], rest: str) -> None:
    lines = [f"{key} = {toml_value(value)}" for key, value in fixed.items()]
    path.write_text("\n".join(["[fixed]", *lines, rest]))


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Killed in its last cell, which goes on; another fails and is named; results are a run's."""
    rest = """
    [axes]
    method = ["layer_norm", "bitfit"]
    updates = [{name = "all"}, {name = "nothing usable", max-update-norm = 1e-9}]
    [[skip]]
    method = "bitfit"
    updates = "nothing usable"
    """
    write_toml(tmp_path / "grid.toml", {**FIXED, "num-rounds": 5}, rest)
    words = ("sweep", "grid.toml", "--workers", "1", "--json")
    command = Command(tmp_path, *words)
    cells = tmp_path / "runs" / "grid" / "cells"
    started = time.monotonic()
    while True:  # until the last cell has a checkpoint
        assert command.running()
        assert time.monotonic() - started < 300
        if any(map(rounds_saved, cells.glob("bitfit-*"))):
            break
        time.sleep(0.02)
    command.send(signal.SIGKILL)
    command.wait()
    (done,) = (path for path in cells.glob("*") if state_of(path)[0] == "done")
    first = (done / "run.json").stat().st_mtime_ns
    (cut_off,) = (path for path in cells.glob("*") if state_of(path)[0] == "open")

    again = Command(tmp_path, *words).wait()
    assert again.returncode == 2, again.stderr
    outcome = json.loads(again.stdout.splitlines()[-1])
    assert (outcome["cells"], outcome["done"]) == (3, 2)
    (failure,) = outcome["failed"]
    assert failure["labels"] == {"method": "layer_norm", "updates": "nothing usable"}
    assert "not one update of a client was used" in failure["reason"]
    assert "1 done before" in again.stderr
    assert "1 cut off before: from the last checkpoint on" in again.stderr
    (resumed,) = events(cut_off, "resumed")
    assert resumed["round"] >= 1
    assert "1 of 3 cells failed" in again.stderr
    assert (done / "run.json").stat().st_mtime_ns == first, "it was done before"
    record = SweepRecord.load(tmp_path / "runs" / "grid")
    assert [cell.state for cell in record.cells] == ["done", "failed", "done"]
    settings = {**FIXED, "num-rounds": 5, "method": "bitfit", "output-dir": str(tmp_path / "alone")}
    alone = fl2ora.run(settings, clients=2)
    assert_equal_runs(tmp_path / "runs" / "grid" / record.cells[2].folder, alone)
    assert cut_off == tmp_path / "runs" / "grid" / record.cells[2].folder


@pytest.mark.slow
def test_the_best_candidate_on_validation_data_is_used_and_recorded(tmp_path: Path) -> None:
    content = {
        "fixed": FIXED,
        "axes": {"method": ["layer_norm"], "loss": ["cross_entropy", "focal"]},
        "select": {"factors": [0.001, 1], "each": ["method"]},
    }
    record, said = run(tmp_path / "sweep", content)
    (choice,) = record.choices
    assert choice.labels == {"method": "layer_norm"}
    rates = [point["value"] for point in choice.curve]
    assert rates[1] == pytest.approx(1000 * rates[0])
    folders = sorted((tmp_path / "sweep" / "selection").iterdir())
    assert len(folders) == 2
    for folder in folders:
        config = json.loads((folder / "run.json").read_text())["config"]
        table = metrics_table(folder)
        measured = table[(table["source"] == "clients-validation") & (table["round"] == 1)]
        point = choice.curve[rates.index(config["learning-rate"])]
        assert point["mean"] == pytest.approx(measured["nll"].item())
    assert choice.chosen == min(choice.curve, key=lambda point: point["mean"])["value"]
    assert choice.at_edge
    assert "a better one may lie beyond" in said
    for cell in record.cells:
        config = json.loads((tmp_path / "sweep" / cell.folder / "run.json").read_text())["config"]
        assert config["learning-rate"] == choice.chosen
        assert "clients-validation" not in set(
            metrics_table(tmp_path / "sweep" / cell.folder)["source"]
        )
    again, said = run(tmp_path / "sweep", content)
    assert again == record
    assert "2 done before" in said


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_cell_alone(tmp_path: Path) -> None:
    deadly = {"name": "deadly", "callbacks": "self_destruct:SelfDestruct"}
    fixed = {key: value for key, value in FIXED.items() if key != "callbacks"}
    content = {
        "fixed": {**fixed, "method": "layer_norm"},
        "axes": {"end": [deadly, {"name": "good"}]},
    }
    record, said = run(tmp_path / "sweep", content)
    assert [cell.state for cell in record.cells] == ["failed", "done"]
    assert "its process ended with signal 9, which the system sends when memory runs out" in said
    log = tmp_path / "sweep" / "workers" / "worker-0.log"
    assert record.cells[0].reason.endswith(str(log))
    assert log.is_file()


def jobs_of(tmp_path: Path, content: dict[str, Any]) -> tuple[Jobs, list[sweep_cells.Job]]:
    jobs = Jobs(tmp_path / "sweep")
    return jobs, [jobs.job(cell) for cell in read_sweep(content).cells()]


AXES = {"axes": {"method": ["lora", "layer_norm"]}, "seeds": 2}


def test_results_of_other_code_or_settings_are_not_this_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [job.folder.name for job in jobs_of(tmp_path, AXES)[1]]
    assert len(set(names)) == 4
    assert [job.folder.name for job in jobs_of(tmp_path, AXES)[1]] == names
    elsewhere = {**AXES, "fixed": {"cache-dir": str(tmp_path), "round-timeout": 5.0}}
    assert [job.folder.name for job in jobs_of(tmp_path, elsewhere)[1]] == names
    more = {**AXES, "fixed": {"batch-size": 16}}
    assert not set(names) & {job.folder.name for job in jobs_of(tmp_path, more)[1]}
    clients = {**AXES, "fixed": {"num-clients": 3}}
    assert not set(names) & {job.folder.name for job in jobs_of(tmp_path, clients)[1]}
    monkeypatch.setattr(sweep_cells, "code_fingerprint", lambda: "other")
    assert not set(names) & {job.folder.name for job in jobs_of(tmp_path, AXES)[1]}


def test_a_plug_in_of_ones_own_is_part_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sweep_lab.py"
    source = (
        "from fl2ora.strategies.averaging.fedavg import FedAvg\n\n\nclass Mine(FedAvg):\n    pass\n"
    )
    file.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    content = {"axes": {"strategy": ["fedavg", "sweep_lab:Mine"]}}
    before = [job.folder.name for job in jobs_of(tmp_path, content)[1]]
    file.write_text(source + "# changed\n")
    after = [job.folder.name for job in jobs_of(tmp_path, content)[1]]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_compression_of_ones_own_is_part_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sweep_bytes.py"
    source = (
        "from fl2ora.strategies.compression.fp16 import FP16\n\n\nclass Mine(FP16):\n    pass\n"
    )
    file.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    content = {"axes": {"compression": ["fp16", "sweep_bytes:Mine"]}}
    before = [job.folder.name for job in jobs_of(tmp_path, content)[1]]
    file.write_text(source + "# changed\n")
    after = [job.folder.name for job in jobs_of(tmp_path, content)[1]]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]


def test_results_of_other_cells_in_the_folder_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, console = sweep_run(tmp_path / "sweep", AXES)
    done = tmp_path / "sweep" / "cells" / "other-seed0-123456789abc"
    done.mkdir(parents=True)
    (done / "run.json").write_text("{}")
    (done / "events.jsonl").write_text('{"event": "finished"}\n')
    monkeypatch.setattr("fl2ora.engines.sweep_workers.Workers.run", lambda *_: iter(()))
    record = found.run()
    said = console.export_text()
    assert "Not used, as they are of other code, libraries or settings: other-seed0" in said
    assert [cell.state for cell in record.cells] == ["open"] * 4
    assert done.is_dir()


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (
            {"axes": {"method": ["lora", "lroa", "bitfit(x=1)"]}, "seeds": 3},
            [
                "did you mean 'lora'? (cell method=lroa, seed 0)",
                "(cell method=bitfit(x=1), seed 0)",
            ],
        ),
        (
            {"axes": {"method": ["lora", "bitfit"]}, "fixed": {"num-rounds": -1}},
            ["num-rounds: expected at least 0", "(cell method=lora, seed 0; and 1 more)"],
        ),
        ({"axes": {"num-clients": [2, "many"]}}, ["num-clients: expected int, found 'many'"]),
        ({**AXES, "select": {"values": [0.1, -2.0]}}, ["learning-rate: expected at least 0"]),
        (
            {**AXES, "select": {"values": [0.1, 0.2], "metric": "ecee"}},
            ["select: metric: expected one of the runs' metrics", "did you mean 'ece'"],
        ),
        (
            {**AXES, "select": {"values": [0.1, 0.2], "metric": "confidence"}},
            ["found 'confidence'"],
        ),
        (
            {
                **AXES,
                "select": {"values": [0.1, 0.2]},
                "fixed": {"calibration-fraction": 0.0},
            },
            ["expected calibration-fraction above 0"],
        ),
        (
            {**AXES, "select": {"factors": [0.1, 0.2]}, "fixed": {"optimiser": "adamw"}},
            ["learning-rate: expected a number above 0"],
        ),
    ],
)
def test_mistakes_in_cells_are_told_before_anything_is_made(
    tmp_path: Path, content: dict[str, Any], messages: list[str]
) -> None:
    with pytest.raises(UserError, match="the sweep cannot start") as caught:
        run(tmp_path / "sweep", content)
    for message in messages:
        assert message in str(caught.value)
    assert not (tmp_path / "sweep").exists()


def test_two_cells_that_are_the_same_run_are_refused(tmp_path: Path) -> None:
    same = {"axes": {"a": [{"name": "x"}, {"name": "y", "method": "lora"}]}}
    message = "expected different cells, found the same run as a=y, seed 0 (cell a=x, seed 0)"
    with pytest.raises(UserError, match=re.escape(message)):
        run(tmp_path / "sweep", same)


@pytest.mark.parametrize("name", ["accuracy", "seeds", "baseline"])
def test_axes_called_like_columns_of_tables_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"no name of a column of tables, found '{name}'"):
        run(tmp_path / "sweep", {"axes": {name: [{"name": "x"}]}})


def test_a_folder_is_for_one_sweep_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl2ora.reporting.sweep_folder._ATTEMPTS", 2)
    with locked(tmp_path / "sweep"), pytest.raises(UserError, match="another sweep is at work"):
        run(tmp_path / "sweep", AXES)
    with locked(tmp_path / "sweep"), contextlib.suppress(ValueError):
        raise ValueError
    with locked(tmp_path / "sweep"):
        pass


def made(folder: Path, values: list[tuple[int, float | None]], state: str = "finished") -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "events.jsonl").write_text(json.dumps({"event": state}) + "\n")
    lines = [{"round": r, "source": "clients-validation", "nll": v} for r, v in values]
    lines += [{"round": r, "source": "server-test", "nll": -9.0} for r, _ in values]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_choice_is_by_the_last_rounds_mean_over_seeds(tmp_path: Path) -> None:
    content = {
        "axes": {"method": ["lora"]},
        "select": {"values": [0.1, 0.2, 0.3, 0.4], "seeds": [0, 1]},
    }
    sweep = read_sweep(content)
    assert sweep.select is not None
    jobs = Jobs(tmp_path)
    ((labels, cell),) = sweep.groups()
    candidates = jobs.candidates(cell, sweep.select)
    assert [value for value, _ in candidates] == [0.1, 0.2, 0.3, 0.4]
    ends: list[list[float | None]] = [[1.0, 3.0], [0.5, 2.5], [0.1, 5.0], [0.1, None]]
    for (_, pair), values in zip(candidates, ends, strict=True):
        for job, value in zip(pair, values, strict=True):
            made(job.folder, [(0, 9.0), (10, value), (2, 0.0)])
    choice = chosen(sweep.select, labels, candidates)
    assert choice.chosen == 0.2
    assert not choice.at_edge
    assert [point["mean"] for point in choice.curve] == pytest.approx([2.0, 1.5, 2.55, None])
    assert choice.curve[0]["sd"] == pytest.approx(2**0.5)
    (candidates[1][1][1].folder / "events.jsonl").write_text('{"event": "failed"}\n')
    again = chosen(sweep.select, labels, candidates)
    assert again.chosen == 0.1
    assert again.at_edge
    assert again.curve[1]["mean"] is None


def test_cells_for_which_nothing_could_be_chosen_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl2ora.engines.sweep_workers.Workers.run", lambda *_: iter(()))
    record, said = run(tmp_path / "sweep", {**AXES, "select": {"values": [0.1, 0.2]}})
    assert [cell.state for cell in record.cells] == ["failed"] * 4
    assert "no candidate of 'select' could be measured" in record.cells[0].reason
    assert "method=lora: no learning-rate could be chosen" in said
