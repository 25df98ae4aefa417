"""A client that fails is dropped with its reason; the others go on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.digests import adapter_digest
from fl2ora.experiment.errors import UserError
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.updates import ClientUpdate, WeightedMean
from misbehaving import Alter, Wrapped
from runs import events, final_adapter, run_small


def only_node_2(change: Alter) -> Wrapped:
    def alter(message: Message, context: Context, reply: Message) -> Message:
        bad = context.node_id == 2 and message.metadata.message_type == "train"
        return change(message, context, reply) if bad else reply

    return Wrapped(alter)


def raises(message: Message, context: Context, reply: Message) -> Message:
    raise RuntimeError("out of memory")


def returns_nan(message: Message, context: Context, reply: Message) -> Message:
    arrays = reply.content.array_records["arrays"].to_torch_state_dict()
    first = next(iter(arrays))
    reply.content["arrays"] = ArrayRecord({**arrays, first: arrays[first] * float("nan")})
    return reply


def renames(message: Message, context: Context, reply: Message) -> Message:
    arrays = reply.content.array_records["arrays"].to_torch_state_dict()
    first = next(iter(arrays))
    reply.content["arrays"] = ArrayRecord({"x": arrays.pop(first), **arrays})
    return reply


def misshapes(message: Message, context: Context, reply: Message) -> Message:
    arrays = reply.content.array_records["arrays"].to_torch_state_dict()
    first = next(iter(arrays))
    reply.content["arrays"] = ArrayRecord({**arrays, first: torch.zeros(1, 1)})
    return reply


def claims_no_examples(message: Message, context: Context, reply: Message) -> Message:
    reply.content.metric_records["metrics"]["num-examples"] = 0
    return reply


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (raises, "RuntimeError: out of memory"),
        (returns_nan, "values not finite"),
        (renames, "missing: "),
        (misshapes, "has shape (1, 1), expected"),
        (claims_no_examples, "num-examples"),
    ],
)
def test_one_bad_client_is_dropped_and_the_others_are_averaged(
    tmp_path: Path, change: Alter, reason: str
) -> None:
    app = only_node_2(change)
    folder = run_small(tmp_path, client_app=app, num_rounds=1)
    drops = events(folder, "drop")
    assert [(d["client"], d["round"]) for d in drops] == [("1", 1)]
    assert reason in drops[0]["reason"]
    assert "client 1: " in (folder / "summary.md").read_text()
    mean = WeightedMean()
    for node, reply in app.replies_to("train"):
        if node != 2:
            count = reply.content.metric_records["metrics"]["num-examples"]
            mean.add(reply.content.array_records["arrays"].to_torch_state_dict(), count)
    expected = mean.result()
    assert all(torch.equal(t, expected[n]) for n, t in final_adapter(folder).items())


def test_too_few_usable_replies_keep_the_adapter(tmp_path: Path) -> None:
    app = only_node_2(raises)
    folder = run_small(tmp_path, client_app=app, num_rounds=1, min_train_clients=3)
    started = app.of("train")[0][1].content.config_records["config"]["at-start"]
    assert adapter_digest(final_adapter(folder)) == started
    assert [(e["usable"], e["expected"]) for e in events(folder, "adapter-kept")] == [(2, 3)]
    assert "adapter kept, 2 usable replies, 3 needed" in (folder / "summary.md").read_text()


def test_a_client_without_examples_is_dropped(tmp_path: Path) -> None:
    empty = {1: {"dataset": "tiny_datasets:NoTrainingImages()", "site": "x"}}
    folder = run_small(tmp_path, node_configs=empty, num_rounds=1)
    drops = [(d["client"], d["reason"]) for d in events(folder, "drop")]
    assert drops == [("x", "UserError: client 'x' has no training images")]


def test_a_client_that_does_not_answer_the_evaluation_is_recorded(tmp_path: Path) -> None:
    def alter(message: Message, context: Context, reply: Message) -> Message:
        if message.metadata.message_type == "evaluate" and context.node_id == 1:
            raise RuntimeError("disk full")
        return reply

    folder = run_small(tmp_path, client_app=Wrapped(alter), evaluate_on="nodes", num_rounds=1)
    assert {d["reason"] for d in events(folder, "drop")} == {"evaluation: RuntimeError: disk full"}
    assert [(e["round"], e["client"]) for e in events(folder, "drop")] == [(0, "0"), (1, "0")]


def explodes(message: Message, context: Context, reply: Message) -> Message:
    arrays = reply.content.array_records["arrays"].to_torch_state_dict()
    reply.content["arrays"] = ArrayRecord({name: t + 100 for name, t in arrays.items()})
    return reply


def test_an_absurd_change_is_dropped_where_a_limit_is_set(tmp_path: Path) -> None:
    folder = run_small(
        tmp_path, client_app=only_node_2(explodes), num_rounds=1, max_update_norm=50.0
    )
    drops = events(folder, "drop")
    assert [d["client"] for d in drops] == ["1"]
    assert "norm" in drops[0]["reason"]


def poisons(message: Message, context: Context, reply: Message) -> Message:
    """Send a huge distance, in the first round alone."""
    if message.content.config_records["config"]["server-round"] == 1:
        aux = reply.content.array_records["aux"].to_torch_state_dict()
        reply.content["aux"] = ArrayRecord({name: t + 1e6 for name, t in aux.items()})
    return reply


def test_one_false_distance_does_not_cost_the_honest_clients(tmp_path: Path) -> None:
    settings = {"strategy": "scaffold", "optimiser": "sgd(momentum=0.0)", "num_rounds": 3}
    app = only_node_2(poisons)
    folder = run_small(tmp_path, client_app=app, **settings)
    drops = events(folder, "drop")
    assert [(d["round"], d["client"]) for d in drops] == [(1, "1")]
    assert drops[0]["reason"].startswith("aux: distance: expected ")
    assert events(folder, "finished")[0]["updates"] == 8


def stretches(message: Message, context: Context, reply: Message) -> Message:
    aux = reply.content.array_records["aux"].to_torch_state_dict()
    reply.content["aux"] = ArrayRecord({name: t * 1000 for name, t in aux.items()})
    return reply


def test_a_false_normaliser_is_dropped(tmp_path: Path) -> None:
    settings = {"strategy": "fednova", "optimiser": "sgd(momentum=0.5)", "local_epochs": 2}
    app = only_node_2(stretches)
    folder = run_small(tmp_path, client_app=app, num_rounds=1, batch_size=8, **settings)
    # 32 images less a fifth and a tenth are 23: three batches twice, and under momentum 1/2
    # 1 + 1.5 + 1.75 + 1.875 + 1.9375 + 1.96875 = 10.03125.
    assert [(d["client"], d["reason"]) for d in events(folder, "drop")] == [
        ("1", "aux: normaliser: expected 10.0312, found 10031.2")
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "fednova(mu=0.1)", "optimiser": "sgd(momentum=0.0)", "accumulate": 2},
        {"strategy": "fednova", "schedule": "cosine(per='round')", "batch_size": 5},
        {"strategy": "scaffold", "optimiser": "sgd(momentum=0.0)",
         "schedule": "cosine(per='round')", "batch_size": 5, "local_epochs": 2},
    ],
)  # fmt: skip
def test_what_honest_clients_report_of_their_work_is_used(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = run_small(tmp_path, partition="dirichlet(beta=0.3)", **settings)
    assert not events(folder, "drop")
    assert events(folder, "finished")[0]["updates"] == 6


@pytest.mark.parametrize("name", ["self", "event_", "server_round", "values", "fields", "number"])
def test_a_metric_of_any_name_ends_no_run(tmp_path: Path, name: str) -> None:
    def alter(message: Message, context: Context, reply: Message) -> Message:
        if message.metadata.message_type == "train":
            reply.content.metric_records["metrics"][name] = 2.5
        return reply

    settings = {"num_rounds": 1, "dataset": "shapes(styles='held-back', train=24, test=16)"}
    folder = run_small(tmp_path, clients=1, client_app=Wrapped(alter), resamples=0, **settings)
    assert [event[name] for event in events(folder, "client")] == [2.5]


class Explodes(FedAvg):
    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        mean = super().aggregate(plan, updates)
        return {name: tensor * (1e30 if plan.round == 2 else 1.0) for name, tensor in mean.items()}


def test_a_model_that_diverged_on_the_server_is_told_with_its_round(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the global model after round 2 gives .* not finite: "):
        run_small(tmp_path, strategy="test_bad_clients:Explodes", num_rounds=3)
    folder = tmp_path / "runs" / "run"
    assert events(folder, "failed")[0]["kind"] == "UserError"
    assert {row["round"] for row in events(folder, "metrics")} == {0, 1}
