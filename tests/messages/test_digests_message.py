"""Digests of a node's images on the wire: what is sound is read, all else is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fl2ora.federated_data.salted import packed
from fl2ora.messages.digests import ask_digests, decode_digests, decode_left_out, decode_salt
from fl2ora.messages.hello import NodeInfo
from fl2ora.messages.own_parts import PartInfo
from fl2ora.messages.records import UnusableMessageError

INFO = NodeInfo("a", num_train=2, num_calibration=0, num_test=1, parts=(PartInfo("new", 1),))
TWO = packed(np.array([1, 2], dtype=np.uint64))
GOOD: dict[str, Any] = {"refused": False, "train": TWO, "calibration": b"", "test": TWO}


def answer(**fields: Any) -> Message:
    (question,) = ask_digests([7], b"s" * 32)
    values = {key: value for key, value in {**GOOD, **fields}.items() if value is not None}
    return Message(RecordDict({"images": ConfigRecord(values)}), reply_to=question)


def test_a_sound_answer_is_read() -> None:
    found = decode_digests(answer(), INFO)
    assert found is not None
    assert found.train.tolist() == [1, 2]
    assert found.test.tolist() == [1, 2]
    assert decode_digests(answer(refused=True), INFO) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": TWO + TWO},
        {"train": TWO[:-1]},
        {"train": "text"},
        {"test": b""},
        {"calibration": None},
        {"refused": 0},
        {"refused": None},
    ],
)
def test_digests_of_other_images_than_a_node_has_are_not_used(wrong: dict[str, Any]) -> None:
    with pytest.raises(UnusableMessageError):
        decode_digests(answer(**wrong), INFO)


def test_what_a_node_is_sent_is_checked() -> None:
    (question,) = ask_digests([7], b"short")
    with pytest.raises(UnusableMessageError, match="salt: expected 16 to 64 bytes"):
        decode_salt(question)
    question.content["left-out"] = ConfigRecord({"salt": b"s" * 32, "images": b"123"})
    with pytest.raises(UnusableMessageError, match="left-out: expected a salt and digests"):
        decode_left_out(question)
