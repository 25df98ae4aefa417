"""A ClientApp that trains quadratics instead of CLIP: Flower's messages, and no time spent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from fl2ora.calibration.stats import CalibrationStats
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.experiment.plugins import load
from fl2ora.messages.evaluate import TEST, Measured, encode_measured
from fl2ora.messages.tensors import decode_tensors
from fl2ora.messages.train import decode_train, encode_update
from fl2ora.strategies.client_rule import ClientRule
from fl2ora.strategies.toy_clients import ToyClient

_STATE = "state"


def toy_grid(
    make: Callable[[int], ToyClient], num_clients: int, fails: Callable[[int, int], bool]
) -> InProcessGrid:
    """Return a grid of toy clients; ``make`` takes an index from 0.

    ``fails(index, server_round)`` says which reply is lost after the client has kept its state.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        index, task = int(context.node_config["partition-id"]), decode_train(message)
        client, kept = make(index), context.state.array_records.get(_STATE)
        client.state = {} if kept is None else decode_tensors(kept, _STATE)
        rule = load(task.rule, ClientRule) if task.rule else ClientRule()
        update = client.train(task.adapter, rule, task.aux, seed=task.round)
        if client.state:
            context.state[_STATE] = ArrayRecord(client.state)
        if fails(index, task.round):
            raise RuntimeError("connection lost")
        return encode_update(message, replace(update, metrics={"loss": 1.0}))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        logits = torch.tensor([[2.0, 1.0], [0.5, 1.5]])
        stats = CalibrationStats.from_logits(logits.numpy(), torch.tensor([0, 0]).numpy())
        return encode_measured(message, str(context.node_id), Measured({TEST: stats}))

    return InProcessGrid(app, {}, num_clients)
