"""A calibrator's parameters and sums survive the way with every digit; other sums are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from flwr.app import Error, Message, RecordDict

from fl2ora.messages.calibrate import (
    CalibrateTask,
    decode_calibrate,
    decode_sums,
    encode_calibrate,
    encode_sums,
)
from fl2ora.messages.records import UnusableMessageError

THIRD = torch.tensor([1 / 3], dtype=torch.float64)


def question() -> Message:
    return Message(RecordDict(), dst_node_id=1, message_type="train.calibrate")


def test_a_task_survives_the_way_with_parameters_in_float64() -> None:
    task = CalibrateTask({"x": torch.rand(3)}, "temperature", {"t": THIRD})
    messages = encode_calibrate(task, {5: "a", 6: "b"})
    assert [m.metadata.dst_node_id for m in messages] == [5, 6]
    found = decode_calibrate(messages[1])
    assert found.calibrator == "temperature"
    assert torch.equal(found.adapter["x"], task.adapter["x"])
    assert torch.equal(found.parameters["t"], THIRD)


def test_sums_survive_the_way_in_float64() -> None:
    found = decode_sums(encode_sums(question(), "a", {"s": THIRD}), {"s": torch.zeros(1)})
    assert torch.equal(found["s"], THIRD)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lambda: encode_sums(question(), "a", {"other": THIRD}), "missing: s"),
        (lambda: encode_sums(question(), "a", {"s": THIRD.repeat(2)}), "shape"),
        (lambda: encode_sums(question(), "a", {"s": THIRD * math.nan}), "not finite"),
        (lambda: Message(RecordDict(), reply_to=question()), "expected a record 'sums'"),
        (lambda: Message(Error(2, "no memory"), reply_to=question()), "no memory"),
    ],
)
def test_sums_that_cannot_be_added_are_refused(message: Any, reason: str) -> None:
    with pytest.raises(UnusableMessageError, match=reason):
        decode_sums(message(), {"s": torch.zeros(1)})
