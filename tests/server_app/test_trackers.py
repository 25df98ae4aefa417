"""Trackers as callbacks: what goes to them, and that their failures stop nothing."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.reporting.events import read_lines
from fl2ora.server_app.callbacks._tracking import Tracking
from fl2ora.server_app.callbacks.base import RunContext
from fl2ora.server_app.callbacks.mlflow import Mlflow
from fl2ora.server_app.callbacks.wandb import Wandb
from fl2ora.server_app.run_plugins import build_callbacks
from runs import events, run_small

QUICK = {"clients": 2, "num_rounds": 2, "eval_every": 2, "calibrator": "temperature"}


class Remembering(Tracking):
    """Writes down what it is sent.

    Args:
        fails_in: name of the hook that raises; empty: none.
    """

    library, extra = "json", "none"

    def __init__(self, folder: str = "", fails_in: str = "") -> None:
        super().__init__(folder)
        self.fails_in = fails_in

    def _note(self, hook: str, **said: Any) -> None:
        if hook == self.fails_in:
            raise RuntimeError("no space\nleft")
        with self.path.open("a") as file:
            file.write(json.dumps({"hook": hook, **said}) + "\n")

    def begin(self, run: RunContext, folder: Path) -> None:
        self.path = run.folder / "told.jsonl"
        self._note("begin", folder=str(folder), method=run.config.method)

    def send(self, server_round: int, values: Mapping[str, float]) -> None:
        self._note("send", round=server_round, values=dict(values))

    def keep(self, plots: list[Path], adapter: Path | None) -> None:
        self._note("keep", plots=[path.name for path in plots], adapter=str(adapter))


def spec(arguments: str = "") -> str:
    return f"test_trackers:Remembering({arguments})"


def test_every_finite_number_of_the_record_is_sent_once(tmp_path: Path) -> None:
    run = run_small(tmp_path, callbacks=f"traffic + {spec()}", **QUICK)
    told = read_lines(run / "told.jsonl")
    assert told[0] == {
        "hook": "begin", "folder": str(run / "remembering"), "method": "lora"
    }  # fmt: skip
    assert told[-1]["hook"] == "keep"
    assert told[-1]["plots"] == []
    assert told[-1]["adapter"] == str(run / "adapter")
    sent = [
        (entry["round"], name, value)
        for entry in told
        if entry["hook"] == "send"
        for name, value in entry["values"].items()
    ]
    assert len({(number, name) for number, name, _ in sent}) == len(sent)
    recorded = {
        (row["round"], f"{row['source']}/{name}", value)
        for row in read_lines(run / "metrics.jsonl")
        for name, value in row.items()
        if name not in ("round", "source") and value is not None
    }
    of_clients = {entry for entry in sent if entry[1].startswith("client-")}
    assert {e for e in sent if e not in of_clients} == recorded
    losses = {(e["round"], e["client"]): e["loss"] for e in events(run, "client")}
    told_losses = {(n, name): v for n, name, v in of_clients if name.endswith("/loss")}
    assert told_losses == {(n, f"client-{c}/loss"): v for (n, c), v in losses.items()}
    assert all(math.isfinite(value) for _, _, value in sent)
    # A round's numbers are sent while the run goes on.
    first = next(i for i, entry in enumerate(told) if entry.get("round") == 1)
    assert first < next(i for i, entry in enumerate(told) if entry.get("round") == 2)


@pytest.mark.parametrize("hook", ["begin", "send", "keep"])
def test_a_failure_is_on_record_once_and_stops_nothing(tmp_path: Path, hook: str) -> None:
    callbacks = f"{spec(f'fails_in={hook!r}')} + summary"
    run = run_small(tmp_path, callbacks=callbacks, clients=1, num_rounds=1)
    (failed,) = events(run, "tracker-failed")
    assert failed["tracker"] == "remembering"
    assert failed["reason"] == "RuntimeError: no space"
    assert events(run, "finished")
    assert (run / "summary.md").exists()


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_small(tmp_path, callbacks="plots + tensorboard", **QUICK)
    assert {"reliability.png", "rounds.png"} <= {path.name for path in run.iterdir()}
    assert not events(run, "tracker-failed")
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    rows = [r for r in read_lines(run / "metrics.jsonl") if r["source"] == "server-test"]
    scalars = found.Scalars("server-test/ece")
    assert [(s.step, s.value) for s in scalars] == [
        (r["round"], pytest.approx(r["ece"])) for r in rows
    ]
    assert found.Scalars("server-test-calibrated/nll")
    assert {"reliability", "rounds"} <= set(found.Tags()["images"])


@pytest.mark.filterwarnings("ignore")  # of SQLAlchemy and MLflow
def test_mlflow_reads_what_was_written(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    store = tmp_path / "store"
    run = run_small(tmp_path, callbacks=f"plots + mlflow('{store}')", **QUICK)
    assert not events(run, "tracker-failed")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("fl2ora")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["method"] == "lora"
    rows = [r for r in read_lines(run / "metrics.jsonl") if r["source"] == "server-test"]
    history = client.get_metric_history(found.info.run_id, "server-test/ece")
    assert {(m.step, m.value) for m in history} == {(r["round"], r["ece"]) for r in rows}
    kept = {item.path for item in client.list_artifacts(found.info.run_id, "plots")}
    assert "plots/reliability.png" in kept
    adapter = client.list_artifacts(found.info.run_id, "adapter")
    assert "adapter/adapter_model.safetensors" in {item.path for item in adapter}


def test_wandb_writes_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = run_small(tmp_path, callbacks="plots + wandb", **QUICK)
    assert not events(run, "tracker-failed")
    (log,) = (run / "wandb").rglob("*.wandb")
    texts = (b"server-test/ece", b"client-0/loss", b"run-", b"plots/reliability")
    until = time.monotonic() + 60  # its own process may write on for a moment
    while missing := [text for text in texts if text not in written_to(log)]:
        assert time.monotonic() < until, missing
        time.sleep(0.1)


def written_to(log: Path) -> bytes:
    """Return what wandb wrote; of each block of 32 KiB the first 7 bytes are the block's own."""
    content, block = log.read_bytes(), 32 * 1024
    return b"".join(content[at + 7 : at + block] for at in range(0, len(content), block))


@pytest.mark.parametrize(("name", "library"), [("mlflow", Mlflow), ("wandb", Wandb)])
def test_a_library_that_is_missing_is_told_before_the_run(
    name: str, library: type[Tracking], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"{name}: expected the library {name}, found none: pip"):
        build_callbacks(f"summary + {name}")
    assert library.extra == name
