"""What travels between server and nodes survives the way."""

from __future__ import annotations

import json

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl2ora.messages.records import (
    ARRAYS,
    AUX,
    METRICS,
    REPLY,
    Hello,
    client_of,
    config_record,
    metrics_record,
    train_reply,
)


@pytest.fixture(autouse=True)
def _identity() -> None:
    """Give this process what Flower's messages ask for."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0


def _question() -> Message:
    return Message(RecordDict({}), dst_node_id=5, message_type="train")


def test_a_hello_survives() -> None:
    hello = Hello(
        client="site-a",
        source="partition",
        partition=3,
        num_partitions=10,
        num_train=7,
        num_test=2,
        device="cuda:1",
        fingerprint="0123456789abcdef",
        code_root="/srv/app",
        versions=json.dumps({"torch": "2.6"}),
        classes=json.dumps(["cat", "ankle boot"]),
        problem="no CUDA",
    )
    assert Hello.from_content(hello.to_content()) == hello
    assert hello.library_versions == {"torch": "2.6"}
    assert hello.class_names == ("cat", "ankle boot")
    assert Hello("x").class_names == ()
    assert Hello("x").library_versions == {}


def test_a_hello_of_another_version_is_understood() -> None:
    record = ConfigRecord({"client": "old", "num_train": 4, "from_the_future": True})
    assert Hello.from_content(RecordDict({"hello": record})) == Hello("old", num_train=4)


def test_a_train_reply_holds_one_record_of_each_kind_unless_asked_for_more() -> None:
    arrays = ArrayRecord({"a": torch.ones(2)})
    reply = train_reply(_question(), arrays, {"loss": 0.5, "num-examples": 3}, "site-a")
    assert set(reply.content) == {ARRAYS, METRICS, REPLY}
    assert dict(reply.content.metric_records[METRICS]) == {"loss": 0.5, "num-examples": 3}
    more = train_reply(_question(), arrays, {}, "site-a", aux=ArrayRecord({"b": torch.ones(1)}))
    assert set(more.content) == {ARRAYS, METRICS, REPLY, AUX}
    assert client_of(reply) == client_of(more) == "site-a"


def test_a_reply_that_does_not_say_whose_it_is_goes_by_its_node() -> None:
    node = str(_question().metadata.dst_node_id)
    silent = Message(RecordDict({"x": MetricRecord({})}), reply_to=_question())
    failed = Message(Error(code=0, reason="x"), reply_to=_question())
    assert client_of(silent) == client_of(failed) == node


def test_records() -> None:
    assert dict(metrics_record({"a": 1.5})) == {"a": 1.5}
    assert dict(config_record({"a": 1, "b": "x", "c": True, "d": 0.5})) == {
        "a": 1, "b": "x", "c": True, "d": 0.5,
    }  # fmt: skip
