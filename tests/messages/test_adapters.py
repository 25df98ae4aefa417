"""What a node has at the start, and zeros, stay at home; what arrives is whole to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.messages.adapters import KnownStart, decode_adapter, padded, trimmed
from fl2ora.messages.calibrate import CalibrateTask, decode_calibrate, encode_calibrate
from fl2ora.messages.evaluate import EvaluateTask, decode_evaluate, encode_evaluate
from fl2ora.messages.records import UnusableMessageError
from fl2ora.messages.tensors import value_bytes
from fl2ora.messages.train import (
    TrainTask,
    decode_train,
    decode_update,
    encode_train,
    encode_update,
)
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.updates import ClientUpdate

START: Adapter = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.zeros(3, 2),
    "c": torch.tensor([1.0, -0.0]),
}
NOW: Adapter = {**START, "b": torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])}
KNOWN = KnownStart(START, {1})


def train_message(adapter: Adapter = NOW, node: int = 1) -> Message:
    plan = RoundPlan(2, adapter, ("k",))
    return next(iter(encode_train(plan, {node: "k"}, 3, start=KNOWN)))


def own() -> Adapter:
    return {name: tensor.clone() for name, tensor in START.items()}


def bits(adapter: Adapter) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in adapter.items()}


@pytest.mark.parametrize(
    ("message", "decode"),
    [
        (train_message, decode_train),
        (lambda: encode_evaluate(EvaluateTask(NOW, 2), {1: "k"}, KNOWN)[0], decode_evaluate),
        (lambda: encode_calibrate(CalibrateTask(NOW, "x", {}), {1: "k"}, KNOWN)[0],
         decode_calibrate),
    ],
)  # fmt: skip
def test_only_what_changed_since_the_start_is_sent_to_a_node_that_has_it(
    message: Any, decode: Any
) -> None:
    sent = message().content.array_records["arrays"]
    assert {name: tuple(array.shape) for name, array in sent.items()} == {"b": (2, 1)}
    assert value_bytes(sent) == 8
    found = decode(message(), own).adapter
    assert list(found) == ["a", "b", "c"]
    assert bits(found) == bits(NOW)


def test_all_is_sent_to_a_node_that_is_not_known_to_have_the_start() -> None:
    message = train_message(node=2)
    assert value_bytes(message.content.array_records["arrays"]) == 4 * (6 + 6 + 2)

    def never() -> Adapter:
        raise AssertionError("the node's own start is not needed")

    assert bits(decode_train(message, never).adapter) == bits(NOW)


@pytest.mark.parametrize(
    "other",
    [
        {**START, "a": START["a"] + 1e-7},
        {**START, "c": torch.tensor([1.0, 0.0])},  # the sign of a zero
        {**START, "a": START["a"].reshape(3, 2)},
        {**START, "d": torch.zeros(1)},
        {"a": START["a"], "b": START["b"]},
        {},
    ],
)
def test_a_node_with_another_start_does_not_fill_in(other: Adapter) -> None:
    with pytest.raises(UnusableMessageError, match=r"^arrays: the tensors left out are .* have "):
        decode_adapter(train_message().content, lambda: other)
    with pytest.raises(UnusableMessageError, match="arrays: the tensors left out"):
        decode_adapter(train_message().content)


def test_zero_shot_clip_has_no_adapter_and_gets_none() -> None:
    (message,) = encode_evaluate(EvaluateTask({}, 0), {1: "k"}, KNOWN)
    assert decode_evaluate(message, own).adapter == {}


def test_what_is_filled_in_is_a_copy() -> None:
    start = own()
    decode_adapter(train_message().content, lambda: start)["a"].zero_()
    assert bits(start) == bits(START)


def test_a_start_of_its_own_is_sent_without_what_the_node_has() -> None:
    plan = RoundPlan(1, START, ("k",), starts={"k": NOW}.__getitem__)
    (message,) = encode_train(plan, {1: "k"}, 1, start=KNOWN)
    assert sorted(message.content.array_records["arrays"]) == ["b"]
    assert bits(decode_train(message, own).adapter) == bits(NOW)


MATRICES = st.integers(0, 4).flatmap(
    lambda rows: st.lists(
        st.lists(st.sampled_from([0.0, -0.0, 1.5]), min_size=3, max_size=3),
        min_size=rows,
        max_size=rows,
    )
)


@given(MATRICES)
def test_zeros_at_the_ends_come_back_and_nothing_else_is_lost(rows: list[list[float]]) -> None:
    whole = {"x": torch.tensor(rows).reshape(-1, 3)}
    small, cut = trimmed(whole)
    assert bits(padded(small, whole, cut)) == bits(whole)
    corner = small["x"]
    if corner.numel() and cut:  # as small as it can be
        last = torch.cat([corner[-1], corner[:, -1]])
        kept = [float(v) != 0 or bool(torch.signbit(v)) for v in last]
        assert any(kept[: corner.shape[1]])
        assert any(kept[corner.shape[1] :])


def test_a_reply_of_a_client_of_lower_rank_is_as_short() -> None:
    """Of a pair of rank 4 over 8 inputs and 6 outputs, a client of rank 1 sends 8 and 6 values."""
    a, b = torch.zeros(4, 8), torch.zeros(6, 4)
    a[0], b[:, 0] = 1.0, 2.0
    sent = {"a": a, "b": b}
    update = ClientUpdate("k", {"a": a * 3, "b": b * 3}, 5)
    question = Message(RecordDict(), dst_node_id=1, message_type="train")
    reply = encode_update(question, update, TrainTask(sent, changes_only=True))
    assert value_bytes(reply.content.array_records["arrays"]) == 4 * (8 + 6)
    assert bits(decode_update(reply, "k", sent).adapter) == bits(update.adapter)


@pytest.mark.parametrize("said", [None, 0, 2, True, "1", [1]])
def test_a_smaller_matrix_without_saying_so_has_the_wrong_shape(said: object) -> None:
    update = ClientUpdate("k", {**NOW, "a": torch.zeros(2, 3)}, 5)
    question = Message(RecordDict(), dst_node_id=1, message_type="train")
    task = TrainTask({**NOW, "b": torch.ones(3, 2)}, changes_only=True)
    reply = encode_update(question, update, task)  # a is (0, 0) and b (2, 1)
    assert decode_update(reply, "k", task.adapter)
    record = reply.content.config_records["reply"]
    assert record["cut"] == 2
    del record["cut"]
    if said is not None:
        record["cut"] = said if said != 2 else 1  # type: ignore[assignment]
    with pytest.raises(UnusableMessageError, match=r"a has shape \(0, 0\), expected \(2, 3\)"):
        decode_update(reply, "k", task.adapter)


def test_a_matrix_larger_than_what_was_sent_is_refused() -> None:
    question = Message(RecordDict(), dst_node_id=1, message_type="train")
    reply = encode_update(question, ClientUpdate("k", {"a": torch.ones(2, 9)}, 5))
    reply.content.config_records["reply"]["cut"] = 1
    with pytest.raises(UnusableMessageError, match=r"a has shape \(2, 9\), expected \(3, 3\)"):
        decode_update(reply, "k", {"a": torch.ones(3, 3)})
