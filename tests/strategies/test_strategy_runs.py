"""Strategies under Flower's own loop and in whole runs: messages, state on nodes, lost replies."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.plugins import load
from fl2ora.server_app.ours_under_flower import OursUnderFlower
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.client_rule import ClientRule
from fl2ora.strategies.toy_clients import START, ToyClient, toy_clients
from fl2ora.strategies.updates import ClientUpdate
from misbehaving import Wrapped
from quadratics import scalar, two_clients
from runs import events, final_adapter, run_small
from toy_app import toy_grid

OURS = [
    "fedavg", "fedprox(mu=0.5)", "feddyn(alpha=1.0)", "fednova", "scaffold", "fedavgm(beta=0.2)",
    "fedadam", "fedyogi", "fedadagrad", "median", "trimmed_mean", "krum", "multi_krum",
    "geometric_median", "attacked(inner='scaffold', clients='')",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet_flower(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "flwr")


def started(
    strategy: Strategy,
    clients: list[ToyClient],
    start: Adapter,
    rounds: int = 3,
    lost: tuple[tuple[int, int], ...] = (),
) -> Adapter:
    """Return what Flower's ``Strategy.start`` ends with."""
    grid = toy_grid(clients.__getitem__, len(clients), lambda *reply: reply in lost)
    result = OursUnderFlower(strategy).start(grid, ArrayRecord(start), num_rounds=rounds)
    return dict(result.arrays.to_torch_state_dict())


@pytest.mark.parametrize("spec", OURS)
def test_strategies_run_under_flowers_loop_with_a_lost_reply(spec: str) -> None:
    strategy = load(spec, Strategy)
    end = started(strategy, toy_clients(START, 5), START, lost=((1, 2), (3, 3)))
    assert {n: t.shape for n, t in end.items()} == {n: t.shape for n, t in START.items()}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in end.values())
    assert any(not torch.equal(tensor, START[name]) for name, tensor in end.items())


@pytest.mark.parametrize("spec", ["feddyn(alpha=1.0)", "scaffold"])
def test_client_state_kept_by_flower_leads_to_the_optimum(spec: str) -> None:
    steps, rate = (50, 0.3) if spec.startswith("feddyn") else (5, 0.1)
    end = started(load(spec, Strategy), two_clients(steps, rate), scalar(0.0), rounds=25)
    assert end["x"].item() == pytest.approx(4.0, abs=0.01)


def test_all_replies_lost_keep_the_adapter() -> None:
    clients = toy_clients(START, 2)
    once = started(load("feddyn", Strategy), clients, START, rounds=1)
    lost = ((0, 2), (1, 2))
    twice = started(load("feddyn", Strategy), toy_clients(START, 2), START, rounds=2, lost=lost)
    assert all(torch.equal(tensor, twice[name]) for name, tensor in once.items())


class Mute(ToyClient):
    """Sends nothing but its adapter."""

    def train(self, received: Adapter, rule: ClientRule, aux: Adapter) -> ClientUpdate:
        return replace(super().train(received, rule, aux), aux={})


@pytest.mark.parametrize("spec", ["scaffold", "fednova"])
def test_a_client_without_the_tensors_a_strategy_needs_is_dropped(spec: str) -> None:
    honest = toy_clients(START, 3)
    odd = [Mute("0", honest[0].target), *honest[1:]]
    two = started(load(spec, Strategy), odd, START, rounds=1)
    lost = started(load(spec, Strategy), toy_clients(START, 3), START, rounds=1, lost=((0, 1),))
    assert all(torch.equal(tensor, lost[name]) for name, tensor in two.items())


def lose_once(message: Message, context: Context, reply: Message) -> Message:
    if message.metadata.message_type == "train" and context.node_id == 2:
        reply.content["aux"] = ArrayRecord({"stray": torch.zeros(1)})
        if message.content.config_records["config"]["server-round"] == 2:
            raise RuntimeError("connection lost")
    return reply


@pytest.mark.parametrize(
    ("spec", "kept"), [("feddyn(alpha=0.1)", True), ("fednova", False), ("scaffold", True)]
)
def test_runs_with_partial_participation_and_a_failing_client(
    tmp_path: Path, spec: str, kept: bool
) -> None:
    states = {}

    def alter(message: Message, context: Context, reply: Message) -> Message:
        states[context.node_id] = "client-rule" in context.state
        return lose_once(message, context, reply)

    folder = run_small(
        tmp_path, 4, Wrapped(alter), strategy=spec, fraction_train=0.75, num_rounds=3,
        optimiser="sgd(momentum=0)", method="lora(towers='vision')",
        dataset="shapes(styles='held-back', train=64, test=32)",
    )  # fmt: skip
    assert all(bool(torch.isfinite(tensor).all()) for tensor in final_adapter(folder).values())
    means = [event["loss"] for event in events(folder, "round-end")]
    assert len(means) == 3
    assert all(math.isfinite(mean) for mean in means)
    assert set(states.values()) == {kept}
    reasons = {event["reason"] for event in events(folder, "drop")}
    if not spec.startswith("feddyn"):
        assert any(reason.startswith("aux: ") for reason in reasons)
