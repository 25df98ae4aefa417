"""Runs in which clients are trained together, against runs in which they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict
from rich.console import Console

from fl2ora.client_app import joint_tasks
from fl2ora.client_app.app import app as client_app
from fl2ora.client_app.node import Node
from fl2ora.client_app.tasks import training_plan
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.engines.ray import Resources, run_on_ray
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.events import read_lines
from fl2ora.server_app.app import app as server_app
from fl2ora.server_app.run_plugins import build_plugins
from runs import SMALL, events, final_adapter, run_small


@pytest.mark.parametrize("strategy", ["fedavg", "feddyn"])
def test_results_are_those_of_clients_one_by_one(tmp_path: Path, strategy: str) -> None:
    settings: dict[str, Any] = {"strategy": strategy, "optimiser": "sgd(momentum=0.0)"}
    one, three = (
        run_small(tmp_path / str(count), 5, clients_per_batch=count, **settings) for count in (1, 3)
    )
    expected, found = final_adapter(one), final_adapter(three)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
    here, there = (read_lines(path / "metrics.jsonl") for path in (three, one))
    for mine, theirs in zip(here, there, strict=True):
        assert mine["source"] == theirs["source"]
        if mine["source"] == "training":
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert [e["client"] for e in events(three, "client")] == [
        e["client"] for e in events(one, "client")
    ]


def test_a_client_that_fails_is_dropped_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(node: Node, *args: Any) -> TrainingPlan:
        if node.key == "1":
            raise ValueError("a disk is full")
        return training_plan(node, *args)

    monkeypatch.setattr(joint_tasks, "training_plan", failing)
    folder = run_small(tmp_path, 3, clients_per_batch=2, num_rounds=1)
    assert [(e["client"], e["reason"]) for e in events(folder, "drop")] == [
        ("1", "ValueError: a disk is full")
    ]
    assert [e["client"] for e in events(folder, "client")] == ["0", "2"]


def test_an_engine_that_trains_one_by_one_refuses(tmp_path: Path) -> None:
    config = {**SMALL, "clients-per-batch": 2, "output-dir": str(tmp_path), "run-name": "run"}
    flat = RunConfig.from_flat(config).flat()
    grid = InProcessGrid(client_app, flat, 3)
    with pytest.raises(UserError, match=r"clients-per-batch: expected 1 unless .*, found 2"):
        server_app(grid, Context(1, 0, {}, RecordDict(), dict(flat)))


def test_ray_refuses_before_it_starts_anything(tmp_path: Path) -> None:
    config = RunConfig.from_flat({"clients-per-batch": 2})
    with pytest.raises(UserError, match="clients-per-batch: expected 1 unless"):
        run_on_ray(config, Resources(2), tmp_path / "run", Console(quiet=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 2}, "clients-per-batch: expected 1 with workers above 1"),
        ({"gradient-checkpointing": True}, r"clients-per-batch: expected 1 with .*, found 2"),
        ({"loss": "cross_entropy + dor"}, "encodes texts beside the classes"),
    ],
)
def test_what_cannot_be_trained_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_plugins(RunConfig.from_flat({"clients-per-batch": 2, **settings}))


def test_a_method_that_cannot_be_trained_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected 1 with a method that has personal parts"):
        run_small(tmp_path, clients_per_batch=2, method="fedpgp", learning_rate=0.0)
