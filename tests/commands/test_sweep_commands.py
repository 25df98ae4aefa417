"""``fl2ora sweep``, ``compare`` and ``report`` as a user types them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from finished_runs import finished_run, finished_sweep
from fl2ora.commands.app import cli
from fl2ora.experiment.errors import UserError


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_sweep(tmp_path_factory.mktemp("sweeps") / "grid")


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def refused(*words: str | Path) -> str:
    result = call(*words)
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def test_a_table_on_the_terminal_with_tests_and_notes(
    grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    result = call("compare", grid, "--baseline", "method=lora", "--target", "accuracy=0.5")
    assert result.exit_code == 0, result.output
    for words in (
        "Mean ± standard deviation",
        "zero-shot",
        "MCE",
        "Against the baseline",
        "2 of 2",
    ):
        assert words in result.output
    assert "Note: failed: method=bitfit" in result.output


def test_what_is_piped_is_the_table_alone(grid: Path) -> None:
    result = call("compare", grid, "--format", "csv", "--metrics", "accuracy+ece")
    assert pd.read_csv(io.StringIO(result.stdout))["seeds"].tolist() == [1, 3, 3, 3, 2]
    assert call("compare", grid, "--format", "latex").stdout.startswith("% Mean")
    assert call("compare", grid, "--format", "markdown").stdout.startswith("**Mean")


def test_a_table_is_written_to_a_file(grid: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    result = call("compare", grid, "--format", "parquet", "--output", file)
    assert result.exit_code == 0, result.output
    assert len(pd.read_parquet(file)) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "parquet"], "--format parquet: expected --output FILE"),
        (["--output", "t.txt"], "--output: expected --format markdown"),
        (["--target", "speed=1"], "--target: expected metric=value"),
        (["--baseline", "x=1"], "--baseline: expected zero-shot or axis=label"),
        (["--source", "clients"], "--source: expected one of"),
        (["--metrics", "ecee"], "--metrics: expected names of metrics"),
    ],
)
def test_mistakes_in_a_comparison(grid: Path, words: list[str], message: str) -> None:
    assert message in refused("compare", grid, *words)


def test_a_report_of_a_run_goes_into_its_folder(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "one")
    result = call("report", run)
    assert result.exit_code == 0, result.output
    assert result.output.strip() == f"Page: {run / 'report' / 'report.html'}"
    assert (run / "report" / "report.html").is_file()
    assert "nowhere: expected the folder of a finished run" in refused(
        "report", tmp_path / "nowhere"
    )
    other = finished_run(tmp_path / "two", {"seed": 1})
    said = refused("report", run, other)
    assert "--output: expected a folder for the report of 2 folders" in said
    assert "are the same run" in refused("report", run, run, "--output", tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_sweep_that_is_only_checked_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FL2ORA_OUTPUT_DIR", raising=False)
    Path("my.toml").write_text('seeds = 2\n[axes]\nmethod = ["lora", "bitfit"]\n')
    result = call("sweep", "my.toml", "--dry-run")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "method=lora, seed 0", "method=lora, seed 1", "method=bitfit, seed 0",
        "method=bitfit, seed 1", "4 cells",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["my.toml"]


def test_mistakes_in_the_file_of_a_sweep(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    assert "my.toml: cannot be read: No such file" in refused("sweep", file)
    file.write_text("[axes\n")
    assert "my.toml: not a TOML file" in refused("sweep", file)
    file.write_bytes(b"\xff\xfe")
    assert "my.toml: not a TOML file" in refused("sweep", file)
    file.write_text("num-rounds = 3\n")
    assert "is it meant for [fixed]?" in refused("sweep", file)
    file.write_text('[axes]\nmethod = ["lroa"]\n')
    assert "the sweep cannot start" in refused("sweep", file)
    file.write_text('[axes]\nmethod = ["lora"]\n')
    (tmp_path / "taken").write_text(json.dumps({}))
    assert "--output: cannot write to" in refused("sweep", file, "--output", tmp_path / "taken")
