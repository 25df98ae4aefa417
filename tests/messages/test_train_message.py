"""An update is decoded once, against what its client was sent; all else is a drop with a reason."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.messages.lineage import Lineage
from fl2ora.messages.records import LONGEST_TEXT, UnusableMessageError
from fl2ora.messages.tensors import encode_tensors
from fl2ora.messages.train import (
    TrainTask,
    decode_train,
    decode_update,
    encode_train,
    encode_update,
)
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.updates import ClientUpdate

SENT: Adapter = {"a": torch.zeros(2, 2), "b": torch.zeros(3)}


def question(node: int = 1) -> Message:
    return Message(RecordDict(), dst_node_id=node, message_type="train")


def reply(arrays: Any = SENT, metrics: dict[str, Any] | None = None, aux: Any = None) -> Message:
    content = RecordDict(
        {
            "arrays": ArrayRecord(dict(arrays)),
            "metrics": MetricRecord({"num-examples": 5, **(metrics or {})}),
            "reply": ConfigRecord({"client": "whoever"}),
        }
    )
    if aux is not None:
        content["aux"] = ArrayRecord(dict(aux))
    return Message(content, reply_to=question())


def test_a_task_survives_the_way() -> None:
    plan = RoundPlan(
        3, {"x": torch.rand(2, 3)}, ("a", "b"), rule="fedprox(mu=0.1)", aux={"c": torch.rand(2)}
    )
    lineage = Lineage(((7, 2),), (1, 2))
    settings = {**lineage.settings(), "client-rule": "another", "server-round": 99}
    messages = list(encode_train(plan, {7: "a", 9: "b"}, num_rounds=12, settings=settings))
    assert [m.metadata.dst_node_id for m in messages] == [7, 9]
    for message in messages:
        task = decode_train(message)
        assert torch.equal(task.adapter["x"], plan.current["x"])
        assert torch.equal(task.aux["c"], plan.aux["c"])
        assert (task.rule, task.round, task.num_rounds) == ("fedprox(mu=0.1)", 3, 12)
        assert task.lineage == lineage


def test_each_client_is_sent_its_own_start() -> None:
    starts = {"a": {"x": torch.zeros(2)}, "b": {"x": torch.ones(2)}}
    plan = RoundPlan(1, {"x": torch.full((2,), 5.0)}, ("a", "b"), starts=starts.__getitem__)
    for message, client in zip(encode_train(plan, {1: "a", 2: "b"}, 1), "ab", strict=True):
        assert torch.equal(decode_train(message).adapter["x"], starts[client]["x"])


def test_what_all_are_sent_is_encoded_once() -> None:
    plan = RoundPlan(1, dict(SENT), ("a", "b"), aux={"c": torch.zeros(1)})
    one, two = encode_train(plan, {1: "a", 2: "b"}, 1)
    for name in ("arrays", "aux"):
        assert one.content[name] is two.content[name]
    assert one.content["config"] is not two.content["config"]


def test_flowers_fedprox_asks_for_the_proximal_rule() -> None:
    content = RecordDict(
        {
            "arrays": encode_tensors(SENT),
            "config": ConfigRecord({"server-round": 2, "proximal-mu": 0.25}),
        }
    )
    task = decode_train(Message(content, dst_node_id=1, message_type="train"))
    assert task == TrainTask(task.adapter, {}, "fedprox(mu=0.25)", 2, 2)


def test_what_flowers_fedadam_sends_from_round_2_on_is_taken() -> None:
    content = RecordDict(
        {
            "arrays": encode_tensors(SENT, torch.float64),
            "config": ConfigRecord({"server-round": 2}),
        }
    )
    found = decode_train(Message(content, dst_node_id=1, message_type="train")).adapter
    assert all(
        found[n].dtype == torch.float32 and torch.equal(found[n], t) for n, t in SENT.items()
    )


def test_an_update_survives_the_way() -> None:
    update = ClientUpdate("k", {"a": torch.rand(2, 2), "b": torch.rand(3)}, 9, {"loss": 0.5})
    found = decode_update(encode_update(question(), update), "k", SENT)
    assert (found.client, found.num_examples, found.metrics) == ("k", 9, {"loss": 0.5})
    assert all(torch.equal(found.adapter[n], t) for n, t in update.adapter.items())
    assert found.aux == {}


def test_the_client_is_who_was_asked_not_who_the_reply_says() -> None:
    assert decode_update(reply(), "asked", SENT).client == "asked"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lambda: reply({"a": torch.zeros(2, 2)}), "missing: b"),
        (lambda: reply({**SENT, "c": torch.zeros(1)}), "unexpected: c"),
        (lambda: reply({**SENT, "b": torch.zeros(4)}), "shape (4,), expected (3,)"),
        (lambda: reply({**SENT, "b": torch.zeros(3, dtype=torch.float64)}), "expected float32"),
        (lambda: reply({**SENT, "b": torch.tensor([0, math.nan, 0])}), "1 of 3 values not finite"),
        (lambda: reply({**SENT, "b": torch.tensor([0, math.inf, 0])}), "1 of 3 values not finite"),
        (
            lambda: reply(aux={"c": torch.zeros(2**18 + 99)}),
            "aux: expected at most 1049024 bytes, found",
        ),
        (lambda: reply(aux={"c" * 2**21: torch.zeros(1)}), "aux: expected at most 1049024 bytes"),
        (lambda: reply(aux={"c": torch.tensor([math.nan])}), "aux: c has 1 of 1 values not finite"),
        (lambda: reply(metrics={"num-examples": 0}), "above 0, found 0"),
        (lambda: reply(metrics={"num-examples": -3}), "above 0, found -3"),
        (lambda: reply(metrics={"num-examples": 0.4}), "whole number above 0, found 0.4"),
        (lambda: reply(metrics={"num-examples": 2.5}), "whole number above 0, found 2.5"),
        (lambda: reply(metrics={"num-examples": math.nan}), "metric 'num-examples'"),
        (lambda: reply(metrics={"num-examples": math.inf}), "metric 'num-examples'"),
        (lambda: reply(metrics={"num-examples": 1e308}), "metric 'num-examples'"),
        (lambda: reply(metrics={"num-examples": [5, 5]}), "expected one number, found list"),
        (lambda: reply(metrics={"loss": 1e308}), "metric 'loss': expected a number below 2^53"),
        (lambda: reply(metrics={"loss": 2.0**53}), "metric 'loss': expected a number below 2^53"),
        (lambda: reply(metrics={"loss": math.inf}), "metric 'loss'"),
        (lambda: reply(metrics={"curve": [1.0, 2.0]}), "'curve': expected one number, found list"),
        (lambda: reply(metrics={"round": 1.0}), "'round': the name cannot be used"),
        (lambda: reply(metrics={"client": 1.0}), "'client': the name cannot be used"),
        (lambda: reply(metrics={"event": 1.0}), "'event': the name cannot be used"),
        (lambda: reply(metrics={"a\x1b[31m": 1.0}), "the name cannot be used"),
        (lambda: reply(metrics={f"m{i}": 1.0 for i in range(1000)}), "at most 1000 metrics"),
        (lambda: Message(RecordDict(), reply_to=question()), "expected records 'arrays'"),
        (lambda: Message(Error(5), reply_to=question()), "error code 5"),
        (
            lambda: Message(
                Error(2, "Traceback\n  ray stuff\nUserError: no images"), reply_to=question()
            ),
            "UserError: no images",
        ),
    ],
)
def test_an_unusable_reply_says_why(message: Any, reason: str) -> None:
    with pytest.raises(UnusableMessageError, match=re.escape(reason)) as caught:
        decode_update(message(), "k", SENT)
    assert "\x1b" not in str(caught.value)


def test_an_array_without_bytes_is_refused() -> None:
    message = reply()
    message.content.array_records["arrays"]["a"] = Array("float32", (2, 2), "numpy.ndarray", b"")
    with pytest.raises(UnusableMessageError, match="update: a: not the bytes of an array"):
        decode_update(message, "k", SENT)


def test_a_long_error_is_cut_to_one_printable_line() -> None:
    reason = "x" * 20_000_000 + "\x1b[2J\n" + "y" * 50_000
    with pytest.raises(UnusableMessageError) as caught:
        decode_update(Message(Error(2, reason), reply_to=question()), "k", SENT)
    assert len(str(caught.value)) <= LONGEST_TEXT
    assert str(caught.value).isprintable()


def test_a_withheld_metric_is_left_out() -> None:
    assert decode_update(reply(metrics={"loss": math.nan}), "k", SENT).metrics == {}


def test_a_thousand_metrics_and_all_whole_numbers_that_floats_hold_are_taken() -> None:
    sent = {f"m{index}": float(2**53 - 1 - index) for index in range(999)}  # and num-examples
    assert decode_update(reply(metrics=sent), "k", SENT).metrics == sent


def test_the_norm_is_of_the_change_from_what_the_client_was_sent() -> None:
    # 4 values moved by 3 and 3 by 2: the norm of the change is sqrt(36 + 12) = 6.9282.
    sent = {"a": torch.full((2, 2), 100.0), "b": torch.full((3,), 50.0)}
    moved = {"a": torch.full((2, 2), 103.0), "b": torch.full((3,), 52.0)}
    assert decode_update(reply(moved), "k", sent, max_norm=6.93)
    with pytest.raises(UnusableMessageError, match=r"norm 6.9282 of its change exceeds .* 6.92"):
        decode_update(reply(moved), "k", sent, max_norm=6.92)
    assert decode_update(reply(moved), "k", sent)


def test_the_number_of_examples_is_what_the_node_said_at_the_start() -> None:
    assert decode_update(reply(), "k", SENT, images=5).num_examples == 5
    with pytest.raises(UnusableMessageError, match="num-examples: expected 7, found 5"):
        decode_update(reply(), "k", SENT, images=7)


def _answered(update: ClientUpdate, changes_only: bool = True) -> Message:
    task = TrainTask(SENT, changes_only=changes_only)
    return encode_update(question(), update, task)


@pytest.mark.parametrize(
    ("changed", "travels"),
    [((), []), (("b",), ["b"]), (("a", "b"), ["a", "b"])],
)
def test_what_training_left_as_it_was_does_not_travel(
    changed: tuple[str, ...], travels: list[str]
) -> None:
    adapter = {n: t + 1 if n in changed else t.clone() for n, t in SENT.items()}
    message = _answered(ClientUpdate("k", adapter, 9))
    assert sorted(message.content.array_records["arrays"]) == travels
    found = decode_update(message, "k", SENT).adapter
    assert list(found) == sorted(SENT)
    assert all(torch.equal(found[name], adapter[name]) for name in SENT)
    assert all(found[name].data_ptr() != SENT[name].data_ptr() for name in SENT)


def test_a_zero_that_became_negative_has_changed() -> None:
    adapter = {name: -torch.zeros_like(tensor) for name, tensor in SENT.items()}
    sent = {name: torch.zeros_like(tensor) for name, tensor in SENT.items()}
    message = encode_update(
        question(), ClientUpdate("k", adapter, 9), TrainTask(sent, changes_only=True)
    )
    assert len(message.content.array_records["arrays"]) == len(SENT)


def test_everything_travels_to_a_server_that_does_not_ask_for_changes_alone() -> None:
    message = _answered(ClientUpdate("k", dict(SENT), 9), changes_only=False)
    assert sorted(message.content.array_records["arrays"]) == sorted(SENT)


@pytest.mark.parametrize("said", [0, 2, "1", [1], None])
def test_tensors_left_out_without_saying_so_are_missing(said: object) -> None:
    message = _answered(ClientUpdate("k", {**SENT, "b": SENT["b"] + 1}, 9))
    record = message.content.config_records["reply"]
    del record["unchanged"]
    if said is not None:
        record["unchanged"] = said  # type: ignore[assignment]
    with pytest.raises(UnusableMessageError, match="missing: a"):
        decode_update(message, "k", SENT)


def test_a_strange_name_does_not_pass_as_a_tensor_left_out() -> None:
    message = _answered(ClientUpdate("k", {"a": SENT["a"] + 1, "c": SENT["b"]}, 9))
    message.content.config_records["reply"]["unchanged"] = 1
    with pytest.raises(UnusableMessageError, match="unexpected: c"):
        decode_update(message, "k", SENT)


def test_our_server_asks_for_changes_alone() -> None:
    (message,) = encode_train(RoundPlan(1, SENT, ("k",)), {1: "k"}, 1)
    assert decode_train(message).changes_only
