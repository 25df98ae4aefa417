"""A calibrator's sums survive the way, and impossible ones are refused with the reason."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict
from torch import Tensor

from fl2ora.messages.calibrate import (
    CalibrateTask,
    decode_calibrate,
    decode_sums,
    encode_calibrate,
    encode_sums,
)
from fl2ora.messages.records import UnusableMessageError

SUMS = {
    "count": torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64),
    "correct": torch.tensor([1.0, 0.0, 4.0], dtype=torch.float64),
    "slope": torch.tensor(-2.5, dtype=torch.float64),
}
NOTHING = {name: torch.zeros_like(tensor) for name, tensor in SUMS.items()}


def question() -> Message:
    return Message(RecordDict(), dst_node_id=1, message_type="train.calibrate")


def reply(**other: Any) -> Message:
    sums: dict[str, Tensor] = {
        name: torch.as_tensor(value, dtype=torch.float64) for name, value in other.items()
    }
    return encode_sums(question(), "k", {**SUMS, **sums})


def test_a_task_survives_the_way() -> None:
    task = CalibrateTask({"a": torch.rand(2)}, "temperature", {"t": torch.rand(1).double() / 3})
    (message,) = encode_calibrate(task, {5: "a"})
    found = decode_calibrate(message)
    assert found.calibrator == "temperature"
    assert torch.equal(found.adapter["a"], task.adapter["a"])
    assert torch.equal(found.parameters["t"], task.parameters["t"])


def test_sums_survive_the_way() -> None:
    found = decode_sums(reply(), NOTHING, 7)
    assert all(torch.equal(found[name], tensor) for name, tensor in SUMS.items())


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lambda: reply(count=[3, 0, 5]), "sums: count: expected 7 images, found 8"),
        (lambda: reply(count=[3, 0, 3], correct=[1, 0, 3]), "expected 7 images, found 6"),
        (lambda: reply(count=[30, 0, 40], correct=[10, 0, 40]), "expected 7 images, found 70"),
        (lambda: reply(count=[-3, 0, -4], correct=[-1, 0, -4]), "whole numbers of at least 0"),
        (lambda: reply(count=[3.5, 0, 3.5]), "count: expected whole numbers"),
        (lambda: reply(correct=[3, 0, 5]), "sums: correct: expected between 0 and count"),
        (lambda: reply(correct=[-1, 0, 4]), "sums: correct: expected between 0 and count"),
        (lambda: reply(slope=float("nan")), "slope has 1 of 1 values not finite"),
        (lambda: reply(slope=-1e200), "sums: slope: expected numbers below 1e+100"),
        (lambda: reply(extra=1.0), "unexpected: extra"),
        (lambda: Message(RecordDict({"x": ConfigRecord({})}), reply_to=question()), "found ['x']"),
        (lambda: Message(Error(2, "UserError: no disk"), reply_to=question()), "no disk"),
    ],
)
def test_impossible_sums_are_refused(message: Any, reason: str) -> None:
    with pytest.raises(UnusableMessageError, match=re.escape(reason)):
        decode_sums(message(), NOTHING, 7)


def test_a_calibrators_own_sums_are_its_own_business() -> None:
    sums = {"gradient": torch.tensor([-1.0, 2.0], dtype=torch.float64)}
    assert decode_sums(encode_sums(question(), "k", sums), sums, 7)["gradient"].tolist() == [-1, 2]
