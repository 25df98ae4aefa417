"""fl2ora's ClientApp under a strategy of Flower's in Flower's own loop."""

from __future__ import annotations

import logging

import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAdam
from flwr.supercore.task_identity import TaskIdentity

from fl2ora.client_app.app import app
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.experiment.config import RunConfig
from fl2ora.federated_data.shares import load_federation
from runs import SMALL


def test_clients_train_on_the_float64_that_fedadam_sends_from_round_2_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    config = RunConfig.from_flat(SMALL).flat()
    federation = load_federation(SMALL["dataset"], "in_distribution")
    start = build_classifier(
        "embedded", "lora", federation.class_names, federation.templates, SMALL["seed"]
    ).export()
    strategy = FedAdam(eta=0.001, fraction_evaluate=0.0)
    grid = InProcessGrid(app, config, 2)
    with caplog.at_level(logging.INFO, "flwr"):
        result = strategy.start(grid, ArrayRecord(dict(start)), num_rounds=2)
    assert set(result.train_metrics_clientapp) == {1, 2}
    found = result.arrays.to_torch_state_dict()
    assert found.keys() == start.keys()
    assert all(tensor.dtype == torch.float64 for tensor in found.values())
