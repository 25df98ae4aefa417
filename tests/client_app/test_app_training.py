"""The ClientApp trains by the run's keys, and keeps what the next round needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fl2ora.client_app.app import app, node_of
from fl2ora.client_app.tasks import build_loss
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.shares import divide, load_federation, share_out
from runs import SMALL, events, final_adapter, run_small

ROUNDS = 3


def by_hand(**plan: Any) -> Adapter:
    """Return what one client ends with that trains by ``plan``, three rounds in a row."""
    federation = load_federation(SMALL["dataset"], "in_distribution")
    images = divide(share_out(federation, "iid", 1, 3)[0], 0.2, 3, "0", 0.1).train
    classifier = build_classifier(
        "embedded", "lora", federation.class_names, federation.templates, 3
    )
    plan = {"loss": "cross_entropy", "learning_rate": 0.3, **plan}
    loss, before = plan.pop("loss"), {}
    for server_round in range(1, ROUNDS + 1):
        received = classifier.export()
        seed = derive_seed(3, "client", "0", server_round)
        local_train(
            classifier,
            images,
            TrainingPlan(
                build_loss(loss),
                round=server_round,
                num_rounds=ROUNDS,
                client="0",
                seed=seed,
                previous=before,
                **plan,
            ),
        )
        before = received
    return classifier.export()


@pytest.fixture(scope="module")
def plain() -> Adapter:
    return by_hand()


@pytest.mark.parametrize(
    ("keys", "plan"),
    [
        ({"optimiser": "sgd(momentum=0.5)"}, {"optimiser": "sgd(momentum=0.5)"}),
        ({"optimiser": "sgd(weight_decay=0.05)"}, {"optimiser": "sgd(weight_decay=0.05)"}),
        (
            {"optimiser": "adamw", "learning_rate": 0.01},
            {"optimiser": "adamw", "learning_rate": 0.01},
        ),
        ({"schedule": "cosine"}, {"schedule": "cosine"}),
        ({"gradient_clip": 0.05}, {"gradient_clip": 0.05}),
        ({"batch_size": 8, "accumulate": 3}, {"batch_size": 8, "accumulate": 3}),
        ({"batch_size": 20, "local_epochs": 2}, {"batch_size": 20, "epochs": 2}),
        ({"augmentation": "crop_flip"}, {"augmentation": "crop_flip"}),
        ({"precision": "bfloat16"}, {"precision": "bfloat16"}),
        ({"loss": "focal + 2*dca"}, {"loss": "focal + 2*dca"}),
        ({"loss": "cross_entropy + 20*nucfl"}, {"loss": "cross_entropy + 20*nucfl"}),
    ],
    ids=lambda value: " ".join(value),
)
def test_every_key_of_training_reaches_the_client(
    tmp_path: Path, keys: dict[str, Any], plan: dict[str, Any], plain: Adapter
) -> None:
    folder = run_small(tmp_path, clients=1, num_rounds=ROUNDS, eval_every=ROUNDS, **keys)
    found, expected = final_adapter(folder), by_hand(**plan)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert any(not torch.allclose(found[name], plain[name], atol=1e-5) for name in plain)


def test_nucfl_compares_with_the_adapter_received_before(tmp_path: Path) -> None:
    """In the first round there is none, so the term is 0; afterwards the client remembers."""
    folder = run_small(
        tmp_path, clients=2, num_rounds=ROUNDS, eval_every=ROUNDS, loss="cross_entropy + nucfl",
        local_epochs=3, batch_size=8, learning_rate=0.01,
    )  # fmt: skip
    terms = {
        server_round: [
            e["loss_nucfl"] for e in events(folder, "client") if e["round"] == server_round
        ]
        for server_round in range(1, ROUNDS + 1)
    }
    assert terms[1] == [0.0, 0.0]
    assert all(len(found) == 2 and max(found) > 0 for found in (terms[2], terms[3]))


def test_every_client_reports_every_term(tmp_path: Path) -> None:
    folder = run_small(tmp_path, loss="cross_entropy + 10*dca", num_rounds=1)
    for event in events(folder, "client"):
        assert event["loss"] == pytest.approx(
            event["loss_cross_entropy"] + 10 * event["loss_dca"], rel=1e-5
        )
        assert event["loss_dca"] > 0


def test_a_node_computes_with_the_runs_threads_whatever_the_machine_has() -> None:
    """Sums of other threads differ in their last digits, and nodes must not."""
    config = RunConfig.from_flat({**SMALL, "threads": 3}).flat()
    InProcessGrid(app, config, 2)  # messages need its identity
    message = Message(RecordDict({"config": ConfigRecord({})}), 1, "query.hello")
    context = Context(1, 1, {"partition-id": 0, "num-partitions": 2}, RecordDict(), config)
    before = torch.get_num_threads()
    assert before != 3
    try:
        node_of(context, message)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
