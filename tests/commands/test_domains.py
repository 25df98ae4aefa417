"""``fl2ora domains``: a run for each domain, skipped where finished, and the mean of all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fl2ora.commands import domains as command
from fl2ora.commands.domains import domain_table, domains
from fl2ora.commands.run import Engine
from fl2ora.experiment.errors import ConfigError, UserError
from fl2ora.reporting.events import read_lines
from fl2ora.reporting.tables import metrics_table

DATASET = "shapes(styles='neon,chalk', train=64, validation=1, test=32)"


def run(tmp_path: Path, *settings: str) -> None:
    keys = [
        f"dataset={DATASET}", "partition=iid", "num-rounds=1", "resamples=0", "callbacks=none",
        f"output-dir={tmp_path}", *settings,
    ]  # fmt: skip
    domains(None, keys, Engine.IN_PROCESS, clients=2, as_json=True)


def outcome(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_each_domain_is_a_run_and_the_mean_is_theirs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "calibrator=temperature")
    found = outcome(capsys)
    series = Path(found["folder"])
    assert series.parent == tmp_path
    assert sorted(p.name for p in series.iterdir()) == [
        "0-neon", "1-chalk", "domains.csv", "domains.md",
    ]  # fmt: skip
    rows = {name: metrics_table(series / name) for name in ("0-neon", "1-chalk")}
    for stage, source, number in (
        ("zero-shot", "server-test", 0),
        ("final", "server-test", 1),
        ("calibrated", "server-test-calibrated", 1),
    ):
        values = [
            t[(t["source"] == source) & (t["round"] == number)].iloc[0] for t in rows.values()
        ]
        for metric in ("accuracy", "ece", "nll"):
            each = [float(value[metric]) for value in values]
            assert [found["domains"][d][stage][metric] for d in ("neon", "chalk")] == each
            assert found["domains"]["mean"][stage][metric] == pytest.approx(sum(each) / 2)
    table = pd.read_csv(series / "domains.csv")
    assert list(table["domain"]) == ["neon"] * 3 + ["chalk"] * 3 + ["mean"] * 3
    text = (series / "domains.md").read_text(encoding="utf-8")
    assert text.count("| mean |") == 3
    protocol = json.loads((series / "1-chalk" / "run.json").read_text())["config"]["protocol"]
    assert protocol == "leave_one_domain_out(domain='chalk')"

    def refuse(*_: object) -> None:
        raise AssertionError("a finished run is not run again")

    monkeypatch.setattr(command, "execute", refuse)
    run(tmp_path, "calibrator=temperature")
    assert outcome(capsys) == found
    with pytest.raises(AssertionError, match="not run again"):
        run(tmp_path, "calibrator=vector")  # other settings, another folder


def test_a_command_that_was_stopped_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, started = command.execute, []

    def counting(config: Any, *rest: Any) -> None:
        started.append(config.run_name)
        if started == ["0-neon", "1-chalk"]:
            raise UserError("no memory")
        original(config, *rest)

    monkeypatch.setattr(command, "execute", counting)
    with pytest.raises(UserError, match="domain 'chalk': no memory"):
        run(tmp_path, "run-name=all")
    assert not (tmp_path / "all" / "domains.csv").exists()
    run(tmp_path, "run-name=all")
    assert started == ["0-neon", "1-chalk", "1-chalk"]
    assert set(outcome(capsys)["domains"]) == {"neon", "chalk", "mean"}
    with pytest.raises(UserError, match="holds a finished run with another seed"):
        run(tmp_path, "run-name=all", "seed=5")
    (tmp_path / "all" / "0-neon" / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json: expected a run's description"):
        run(tmp_path, "run-name=all")
    assert read_lines(tmp_path / "all" / "1-chalk" / "events.jsonl")[-1]["event"] == "finished"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("resume=./somewhere", "resume: expected none, as the same command goes on"),
        ("protocol=base_to_new", "protocol: expected none, as 'fl2ora domains' sets"),
        ("dataset=shapes(styles='neon')", "dataset: expected one with two or more domains"),
        ("dataset=none", "dataset: expected one with two or more domains"),
        ("num-round=2", "did you mean 'num-rounds'?"),
    ],
)
def test_what_cannot_be_is_told_before_anything_runs(
    tmp_path: Path, setting: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, setting)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_domains_with_odd_names_have_folders_and_rows(tmp_path: Path) -> None:
    names = ("a/b", "a b", "Ü", "..")
    folders = {}
    for number, name in enumerate(names):
        config = command.RunConfig(run_name="x", output_dir=str(tmp_path))
        made = command._config_of(config, tmp_path, name, number)
        assert "/" not in made.run_name
        assert made.protocol == f"leave_one_domain_out(domain={name!r})"
        folders[name] = tmp_path / made.run_name
        folders[name].mkdir()
        row = {"round": 0, "source": "server-test", "accuracy": number / 4}
        (folders[name] / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert len({str(path) for path in folders.values()}) == 4
    table = domain_table(folders)
    assert list(table["domain"].unique()) == [*names, "mean"]
    mean = table[(table["domain"] == "mean") & (table["stage"] == "final")]
    assert mean["accuracy"].item() == pytest.approx(0.375)
