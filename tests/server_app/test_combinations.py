"""Strategies see named tensors: the paper's four work with whatever is tuned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message

from fl2ora.clip_tuning.build import build_classifier
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.shapes import Shapes
from misbehaving import Wrapped
from runs import events, final_adapter, run_small

STRATEGIES = ["fedavg", "fedprox(mu=0.1)", "feddyn(alpha=0.5)", "fednova", "scaffold"]
METHODS = ["coop(length=2)", "layer_norm", "linear_probe", "vpt(length=2)", "maple(depth=1)"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_partial_participation_and_a_dropped_client(
    tmp_path: Path, strategy: str, method: str
) -> None:
    def alter(message: Message, context: Context, reply: Message) -> Message:
        if message.metadata.message_type == "train" and context.node_id == 2:
            raise RuntimeError("gone")
        return reply

    folder = run_small(
        tmp_path,
        clients=4,
        client_app=Wrapped(alter),
        strategy=strategy,
        method=method,
        fraction_train=0.75,
        optimiser="sgd(momentum=0.0)",
        learning_rate=0.01,
    )
    world = Shapes(styles="held-back", train=96, validation=16, test=64)
    start = build_classifier("embedded", method, world.class_names, world.templates, 3).export()
    end = final_adapter(folder)
    assert end.keys() == start.keys()
    assert any(not torch.equal(end[name], start[name]) for name in start)
    assert all(torch.isfinite(tensor).all() for tensor in end.values())
    chosen = [client for e in events(folder, "round-start") for client in e["clients"]]
    assert "1" in chosen
    lost = [e["client"] for e in events(folder, "drop")]
    assert lost == [client for client in chosen if client == "1"]
    assert len(events(folder, "client")) == len(chosen) - len(lost)


@pytest.mark.parametrize("strategy", ["flexlora", "ffa_lora", "fedsvd"])
def test_a_lora_strategy_refuses_other_methods_before_training(
    tmp_path: Path, strategy: str
) -> None:
    app = Wrapped()
    with pytest.raises(UserError, match=strategy):
        run_small(tmp_path, client_app=app, strategy=strategy, method="linear_probe")
    assert not app.of("train")


def test_a_method_with_a_residual_refuses_strategies_that_leave_it_alone(tmp_path: Path) -> None:
    app = Wrapped()
    with pytest.raises(UserError, match="residual"):
        run_small(tmp_path, client_app=app, strategy="fedavg", method="lora_residual")
    assert not app.of("train")
