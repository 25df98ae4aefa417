from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl2ora.messages.replies import Drop, decode_update, usable_replies
from fl2ora.strategies.updates import ClientUpdate

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


def sift(*messages: Message, **options: Any) -> tuple[list[Message], list[Drop]]:
    drops: list[Drop] = []
    return list(usable_replies(messages, EXPECTED, drops.append, **options)), drops


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


def test_an_update_of_absurd_norm_is_dropped_where_a_limit_is_set() -> None:
    # 4 values of 3 and 3 of 2: the norm of the change from zero is sqrt(36 + 12).
    far = {"a": torch.full((2, 2), 3.0), "b": torch.full((3,), 2.0)}
    assert sift(reply(arrays=far))[1] == []
    assert sift(reply(arrays=far), max_norm=6.93)[1] == []
    used, drops = sift(reply(1, arrays=far), reply(2), max_norm=6.92)
    assert [m.metadata.src_node_id for m in used] == [2]
    assert drops[0].reason == "update: norm 6.9282 of its change exceeds the limit 6.92"


def test_the_norm_is_of_the_change_not_of_the_adapter() -> None:
    start = {name: tensor + 100 for name, tensor in EXPECTED.items()}
    drops: list[Drop] = []
    near = reply(arrays={name: tensor + 0.1 for name, tensor in start.items()})
    assert list(usable_replies([near], start, drops.append, max_norm=0.3))
    assert not drops


def test_further_tensors_that_are_not_finite_are_dropped() -> None:
    message = reply()
    message.content["aux"] = ArrayRecord({"c": torch.tensor([float("nan")])})
    assert sift(message)[1][0].reason == "aux: c has 1 of 1 values not finite"


def test_lists_among_the_metrics_are_dropped() -> None:
    message = reply()
    message.content.metric_records["metrics"]["curve"] = [1.0, 2.0]
    assert "expected one number, found [1.0, 2.0]" in sift(message)[1][0].reason


def test_what_the_strategy_refuses_is_dropped_with_its_reason() -> None:
    def check(update: ClientUpdate) -> None:
        if update.client == "site-1":
            raise ValueError("aux: nothing to say")

    used, drops = sift(reply(1), reply(2), check=check)
    assert [m.metadata.src_node_id for m in used] == [2]
    assert drops == [Drop("site-1", 1, "aux: nothing to say")]
