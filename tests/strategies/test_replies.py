from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from strategies.replies import Drop, decode_update, usable_replies

EXPECTED = {"a": torch.zeros(2, 2), "b": torch.zeros(3)}


@pytest.fixture(autouse=True)
def _identity() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0


def question(node: int) -> Message:
    return Message(RecordDict(), dst_node_id=node, message_type="train")


def reply(node: int = 1, arrays: Any = EXPECTED, examples: Any = 5, **metrics: float) -> Message:
    content = RecordDict(
        {
            "arrays": ArrayRecord(dict(arrays)),
            "metrics": MetricRecord({"num-examples": examples, **metrics}),
            "reply": ConfigRecord({"client": f"site-{node}"}),
        }
    )
    return Message(content, reply_to=question(node))


def sift(*messages: Message) -> tuple[list[Message], list[Drop]]:
    drops: list[Drop] = []
    return list(usable_replies(messages, EXPECTED, drops.append)), drops


def test_a_sound_reply_is_used_and_decoded() -> None:
    used, drops = sift(reply(2, loss=0.5))
    update = decode_update(used[0])
    assert not drops
    assert (update.client, update.num_examples, update.metrics) == ("site-2", 5, {"loss": 0.5})
    assert {k: tuple(v.shape) for k, v in update.adapter.items()} == {"a": (2, 2), "b": (3,)}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lambda: reply(arrays={"a": torch.zeros(2, 2)}), "missing: b"),
        (lambda: reply(arrays={**EXPECTED, "c": torch.zeros(1)}), "unexpected: c"),
        (lambda: reply(arrays={**EXPECTED, "b": torch.zeros(4)}), r"shape \(4,\), expected \(3,\)"),
        (lambda: reply(arrays={**EXPECTED, "b": torch.tensor([0, float("nan"), 0])}), "not finite"),
        (lambda: reply(arrays={**EXPECTED, "b": torch.tensor([0, float("inf"), 0])}), "not finite"),
        (lambda: reply(examples=0), "num-examples: expected a finite number above 0, found 0"),
        (lambda: reply(examples=-3), "found -3"),
        (lambda: reply(examples=float("nan")), "found nan"),
        (lambda: reply(examples=float("inf")), "found inf"),
        (lambda: Message(RecordDict(), reply_to=question(1)), "expected records"),
        (
            lambda: Message(
                Error(2, "Traceback\n  ray stuff\nUserError: no images"), reply_to=question(1)
            ),
            "UserError: no images",
        ),
        (lambda: Message(Error(5), reply_to=question(1)), "error code 5"),
    ],
)
def test_unusable_replies_are_dropped_with_their_reason(message: Any, reason: str) -> None:
    used, drops = sift(message(), reply(2))
    assert [m.metadata.src_node_id for m in used] == [2]
    assert len(drops) == 1
    assert drops[0].node == 1
    assert re.search(reason, drops[0].reason)


def test_a_second_reply_of_a_node_is_dropped() -> None:
    used, drops = sift(reply(1), reply(1), reply(2))
    assert [m.metadata.src_node_id for m in used] == [1, 2]
    assert drops[0].reason == "second reply in one round"


def test_float64_arrays_become_the_adapters_float32() -> None:
    arrays = {"a": torch.zeros(2, 2, dtype=torch.float64), "b": torch.ones(3)}
    used, _ = sift(reply(arrays=arrays))
    assert decode_update(used[0]).adapter["a"].dtype == torch.float32


def test_object_arrays_are_never_unpickled() -> None:
    message = reply()
    array = message.content.array_records["arrays"]["a"]
    with pytest.raises(ValueError, match="pickle"):
        np.save(__import__("io").BytesIO(), np.array([object()]), allow_pickle=False)
    array.data = b"\x80\x04K\x01."  # a pickle, not an .npy file
    used, drops = sift(message)
    assert not used
    assert drops
