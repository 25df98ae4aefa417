"""A ClientApp that trains quadratics instead of CLIP: Flower's messages, and no time spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from fl2ora.messages.pooled import encode_stats
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl2ora.calibration.stats import CalibrationStats
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.experiment.plugins import load
from fl2ora.strategies.client_rule import ClientRule
from fl2ora.strategies.toy_clients import ToyClient


def toy_grid(
    make: Callable[[int], ToyClient], num_clients: int, fails: Callable[[int, int], bool]
) -> InProcessGrid:
    """Return a grid of toy clients; ``make`` takes an index from 0.

    ``fails(index, server_round)`` says which reply is lost after the client has kept its state.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        index = int(context.node_config["partition-id"])
        settings = message.content.config_records["config"]
        client = make(index)
        client.state = _tensors(context.state.array_records, "state")
        spec = str(settings.get("client-rule", ""))
        rule = load(spec, ClientRule) if spec else ClientRule()
        received = _tensors(message.content.array_records, "arrays")
        aux = _tensors(message.content.array_records, "aux")
        update = client.train(received, rule, aux, seed=int(settings["server-round"]))
        if client.state:
            context.state["state"] = ArrayRecord(client.state)
        if fails(index, int(settings["server-round"])):
            raise RuntimeError("connection lost")
        return _reply(message, update.adapter, update.aux, client)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        logits = torch.tensor([[2.0, 1.0], [0.5, 1.5]])
        stats = CalibrationStats.from_logits(logits.numpy(), torch.tensor([0, 0]).numpy())
        return Message(RecordDict({"metrics": encode_stats(stats)}), reply_to=message)

    return InProcessGrid(app, {}, num_clients)


def _reply(message: Message, adapter: Adapter, aux: Adapter, client: ToyClient) -> Message:
    content: dict[str, Any] = {
        "arrays": ArrayRecord(adapter),
        "metrics": MetricRecord({"num-examples": client.num_examples, "loss": 1.0}),
        "reply": ConfigRecord({"client": client.key}),
    }
    if aux:
        content["aux"] = ArrayRecord(aux)
    return Message(RecordDict(content), reply_to=message)


def _tensors(records: Mapping[str, ArrayRecord], name: str) -> Adapter:
    return dict(records[name].to_torch_state_dict()) if name in records else {}
