"""A run killed at random moments, as by a power cut, ends with the same bytes once it went on.

A few moments here; ``benchmarks/kill_anywhere.py`` tries many.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kill_anywhere import RUNS, SMALL, begin, differences, finish, try_moments


@pytest.mark.parametrize("name", RUNS)
def test_killed_at_two_moments(tmp_path: Path, name: str) -> None:
    settings = {**RUNS[name], "num-rounds": 4, "workers": 1}
    settings["callbacks"] = "early_stop(patience=99) + summary"
    rounds, wrong = try_moments(settings, tmp_path, moments=2, seed=1)
    assert rounds.total() == 2
    assert wrong == []


def test_a_run_of_another_seed_is_told_from_it(tmp_path: Path) -> None:
    """The comparison sees a difference where there is one."""
    for seed in (0, 1):
        settings = {**SMALL, "num-rounds": 1, "callbacks": "none", "seed": seed}
        finish(begin({**settings, "output-dir": str(tmp_path), "run-name": str(seed)}))
    names = differences(tmp_path / "1", tmp_path / "0")
    assert {"global.safetensors", "metrics.jsonl", "logits.safetensors"} <= set(names)
