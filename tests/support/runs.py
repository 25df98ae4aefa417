"""Small federated runs in this process, for tests of several rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from fl2ora.client_app.app import app as real_client_app
from fl2ora.clip_tuning.adapter import Adapter, load_adapter
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.experiment.config import RunConfig
from fl2ora.reporting.events import read_lines
from fl2ora.server_app.app import app as server_app

SMALL: dict[str, Any] = {
    "dataset": "shapes(styles='held-back', train=96, validation=16, test=64)",
    "partition": "iid",
    "num-rounds": 2,
    "learning-rate": 0.3,
    "start-timeout": 5.0,
    "seed": 3,
    "callbacks": "lora_diagnostics + logit_scale + traffic + summary",
    "resamples": 20,
}


def run_small(
    tmp_path: Path,
    clients: int = 3,
    client_app: ClientApp = real_client_app,
    node_configs: dict[int, dict[str, Any]] | None = None,
    run_id: int = 1,
    **settings: Any,
) -> Path:
    """Run the real ServerApp in this process and return the run directory."""
    keys = {name.replace("_", "-"): value for name, value in settings.items()}
    config = RunConfig.from_flat(
        {**SMALL, "output-dir": str(tmp_path / "runs"), "run-name": "run", **keys}
    ).flat()
    together = int(config["clients-per-batch"])
    grid = InProcessGrid(
        client_app, config, clients, run_id, node_configs, clients_per_batch=together
    )
    context = Context(run_id, 0, {}, RecordDict(), dict(config))
    server_app(grid, context)
    return tmp_path / "runs" / config["run-name"]


def final_adapter(folder: Path) -> Adapter:
    """Return the global adapter a run ended with."""
    return load_adapter(folder / "global.safetensors")


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return a run's events of one kind."""
    return [event for event in read_lines(folder / "events.jsonl") if event["event"] == kind]


def assert_equal_runs(folder: Path, reference: Path) -> None:
    """Adapters bit for bit, and every metric."""
    expected = final_adapter(reference)
    found = final_adapter(folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    here, there = (read_lines(path / "metrics.jsonl") for path in (folder, reference))
    assert len(here) == len(there)
    for mine, theirs in zip(here, there, strict=True):
        if mine["source"] == "training":  # sums in the order of arrival
            assert mine.keys() == theirs.keys()
            numbers = {k: v for k, v in theirs.items() if k != "source"}
            assert {k: mine[k] for k in numbers} == pytest.approx(numbers, rel=1e-6, abs=1e-9)
        else:
            assert mine == theirs
