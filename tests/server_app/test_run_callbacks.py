"""A callback of one's own in a whole run: what it raises names it, and loses no result."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.server_app.callbacks.base import Callback, RunContext
from fl2ora.server_app.run_plugins import build_callbacks
from runs import SMALL, run_small

QUICK = {"num_rounds": 1, "dataset": SMALL["dataset"].replace("96", "24")}


class FailsOnStart(Callback):
    def on_start(self, run: RunContext) -> None:
        raise KeyError("folders")


class FailsOnEnd(Callback):
    def on_end(self, run: RunContext) -> None:
        raise KeyError("folders")


class ReadsTraining(Callback):
    parts = frozenset({"training", "validation"})


class ReadsText(Callback):
    parts = "validation"  # type: ignore[assignment]


@pytest.mark.parametrize("name", ["ReadsTraining", "ReadsText"])
def test_parts_that_no_run_measures_are_refused(name: str) -> None:
    words = rf"test_run_callbacks:{name}: parts: expected .*'validation'.*, found "
    with pytest.raises(UserError, match=words):
        build_callbacks(f"summary + test_run_callbacks:{name}")
    assert len(build_callbacks("early_stop + summary")) == 2


@pytest.mark.parametrize(("name", "saved"), [("FailsOnStart", False), ("FailsOnEnd", True)])
def test_a_callback_at_fault_is_named_with_file_and_line(
    tmp_path: Path, name: str, saved: bool
) -> None:
    with pytest.raises(UserError) as caught:
        run_small(tmp_path, clients=1, callbacks=f"test_run_callbacks:{name}", **QUICK)
    for word in (f"test_run_callbacks:{name}: KeyError: 'folders'", "test_run_callbacks.py:"):
        assert word in str(caught.value)
    assert (tmp_path / "runs" / "run" / "global.safetensors").is_file() == saved
