"""A run that trained nothing does not look like one that did."""

from __future__ import annotations

from pathlib import Path

from command_line import fl2ora
from runs import events


def test_a_run_in_which_nothing_was_trained_ends_with_an_error(tmp_path: Path) -> None:
    keys = {
        "dataset": "shapes(styles='held-back', train=64, validation=16, test=32)",
        "partition": "iid", "num-rounds": 1, "workers": 1,
        "output-dir": tmp_path, "run-name": "run", "loss": "broken_losses:Faulty",
    }  # fmt: skip
    settings = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    done = fl2ora(tmp_path, "run", "--engine", "in-process", "--clients", "2", *settings)
    assert done.returncode == 2
    assert "not one update of a client was used in 1 rounds" in done.stderr
    assert "Traceback" not in done.stderr
    assert "IndexError: index 10 is out of bounds" in done.stdout
    (reason,) = {drop["reason"] for drop in events(tmp_path / "run", "drop")}
    told = "UserError: broken_losses:Faulty: IndexError: index 10 is out of bounds ("
    assert reason.startswith(told)
