"""What FedAvg promises, seen on whole runs: the aggregate reaches the clients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.shares import divide, load_federation, share_out
from misbehaving import Wrapped
from runs import SMALL, final_adapter, run_small


def tensors(message: Message) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in message.content.array_records["arrays"].items()}


def test_every_client_starts_from_the_aggregate(tmp_path: Path) -> None:
    app = Wrapped()
    folder = run_small(tmp_path, clients=3, client_app=app, partition="dirichlet(beta=0.3)")
    trained = [tensors(m) for _, m in app.replies_to("train")]
    counts = [
        int(m.content.metric_records["metrics"]["num-examples"]) for _, m in app.replies_to("train")
    ]
    started = [{n: t.numpy() for n, t in found.items()} for found in app.started()]
    assert len(set(counts[:3])) > 1, "equal sizes could not show wrong weights"
    for name in trained[0]:
        total = sum(
            w * t[name].astype(np.longdouble) for w, t in zip(counts[:3], trained[:3], strict=True)
        )
        mean = (total / sum(counts[:3])).astype(np.float32)
        for client in started[3:]:
            np.testing.assert_array_equal(client[name], mean)
        final = sum(
            w * t[name].astype(np.longdouble) for w, t in zip(counts[3:], trained[3:], strict=True)
        )
        np.testing.assert_array_equal(
            final_adapter(folder)[name].numpy(), (final / sum(counts[3:])).astype(np.float32)
        )
    assert any(not np.array_equal(started[0][n], started[3][n]) for n in started[0])


def test_one_client_is_centralised_training(tmp_path: Path) -> None:
    folder = run_small(tmp_path, clients=1)
    federation = load_federation(SMALL["dataset"], "in_distribution")
    images = divide(share_out(federation, "iid", 1, 3)[0], 0.2, 3, "0", 0.1).train
    classifier = build_classifier(
        "embedded", "lora", federation.class_names, federation.templates, 3
    )
    for server_round in (1, 2):
        seed = derive_seed(3, "client", "0", server_round)
        plan = TrainingPlan(CrossEntropy(), learning_rate=0.3, client="0", seed=seed)
        local_train(classifier, images, plan)
    for name, tensor in classifier.export().items():
        assert torch.equal(tensor, final_adapter(folder)[name]), name


def test_two_clients_with_equal_data_train_as_one(tmp_path: Path) -> None:
    # One full batch, no dropout and no held-out part: nothing random tells the twins apart, and
    # only the order of the sums inside a batch differs.
    same = {"method": "lora(dropout=0.0)", "batch_size": 96, "local_test_fraction": 0.0}
    same["calibration_fraction"] = 0.0
    data = {"dataset": SMALL["dataset"]}
    twins = {0: {**data, "site": "left"}, 1: {**data, "site": "right"}}
    two = final_adapter(run_small(tmp_path / "two", clients=2, node_configs=twins, **same))
    one = final_adapter(run_small(tmp_path / "one", clients=1, node_configs={0: twins[0]}, **same))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=2e-6)
    start = build_classifier("embedded", "lora(dropout=0.0)", ["a"], ["{}"], 3).export()
    assert any(not torch.allclose(one[name], start[name], atol=1e-4) for name in one)


def test_equal_seeds_give_equal_runs_and_others_do_not(tmp_path: Path) -> None:
    first = final_adapter(run_small(tmp_path / "1", num_rounds=1))
    again = final_adapter(run_small(tmp_path / "2", num_rounds=1))
    other = final_adapter(run_small(tmp_path / "3", num_rounds=1, seed=4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_client_left_out_of_a_round_gets_no_message(tmp_path: Path) -> None:
    app = Wrapped()
    run_small(tmp_path, clients=4, client_app=app, fraction_train=0.5, num_rounds=3)
    per_round = [
        sorted(
            n for n, m in app.of("train") if m.content.config_records["config"]["server-round"] == r
        )
        for r in (1, 2, 3)
    ]
    assert all(len(nodes) == 2 for nodes in per_round)
    assert len({tuple(nodes) for nodes in per_round}) > 1


@pytest.mark.parametrize("spec", ["flwr.serverapp.strategy:FedAvg()", "fedavg"])
def test_flowers_own_fedavg_agrees_with_ours(tmp_path: Path, spec: str) -> None:
    ours = final_adapter(run_small(tmp_path / "ours", num_rounds=1))
    named = final_adapter(run_small(tmp_path / "named", num_rounds=1, strategy=spec))
    for name, tensor in ours.items():
        torch.testing.assert_close(named[name], tensor, rtol=0, atol=1e-6)
