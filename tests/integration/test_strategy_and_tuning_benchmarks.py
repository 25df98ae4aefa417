"""The benchmarks of strategies, losses and methods start, and their columns are recorded."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from benchmarks.losses_table import COLUMNS as LOSSES
from benchmarks.small_runs import cell, run_once
from benchmarks.strategies_table import COLUMNS, SPECS, WRAPPERS
from fl2ora.experiment.plugins import available, load
from fl2ora.strategies._wrapping import Wrapping
from fl2ora.strategies.base import Strategy
from runs import SMALL

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MODULES = (
    "strategies_table", "strategy_aggregation", "losses_table", "tuning_cost", "tuning_table",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_it_says_how_it_is_used(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out.lower()


def test_every_column_of_a_table_is_filled_by_a_run() -> None:
    settings = {**SMALL, "num-rounds": 1, "calibrator": "temperature"}
    settings.pop("callbacks")
    figures = run_once(settings, 2)
    empty = [column for column in (*COLUMNS, *LOSSES) if cell(figures, column) == "-"]
    assert empty == []


def test_every_wrapper_is_left_out_of_the_table_of_strategies() -> None:
    found = {n for n in available(Strategy) if isinstance(load(n, Strategy), Wrapping)}
    assert found == set(WRAPPERS)
    assert all(isinstance(load(s["strategy"], Strategy), Strategy) for s in SPECS.values())
