"""Whatever a node sends, a decoder returns something sound or says why not, in one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl2ora.calibration.conformal.set_sums import SetSums
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.federated_data.salted import SaltedImages
from fl2ora.messages.calibrate import decode_sums
from fl2ora.messages.digests import decode_digests, encode_digests
from fl2ora.messages.evaluate import (
    TEST,
    Measured,
    decode_measured,
    decode_sets,
    encode_measured,
)
from fl2ora.messages.hello import NODE, NodeInfo, ask_hello, decode_hello, encode_hello
from fl2ora.messages.records import LONGEST_TEXT, UnusableMessageError
from fl2ora.messages.tensors import encode_tensors
from fl2ora.messages.train import decode_update

SENT = {"a": torch.zeros(2, 2), "b": torch.zeros(3)}
SPEC = StatsSpec(num_bins=3, fine_bins=0)
STATS = CalibrationStats.from_logits(torch.eye(4)[:, :3] * 3, torch.tensor([0, 1, 2, 0]), SPEC)
DIGESTS = SaltedImages(*(np.arange(count, dtype=np.uint64) for count in (2, 0, 1)))
NAMES = st.one_of(
    st.sampled_from(
        ["arrays", "aux", "metrics", "reply", "sums", "node", "test", "a", "b", "num-examples",
         "loss", "count", "correct", "round", "images", "refused", "train", "sets", "covered",
         "size",
         *STATS.to_arrays(), *NodeInfo("").__dict__]
    ),
    st.text(max_size=20),
)  # fmt: skip
FLOATS = st.floats() | st.sampled_from([0.0, 0.4, 1e38, 1e308, -1.0, 2.0**53, math.nan, math.inf])
INTEGERS = st.integers(-(2**63), 2**63 - 1)
SHAPES = st.lists(st.integers(-3, 2**70), max_size=4).map(tuple)


def question() -> Message:
    return Message(RecordDict(), dst_node_id=1, message_type="train")


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    kind = draw(st.sampled_from(["sound", "header", "bytes", "stype", "wide"]))
    if kind == "header":
        text = draw(st.text(max_size=60)).encode("utf-8", "replace")[:255]
        head = b"\x93NUMPY" + bytes([draw(st.integers(0, 4)), 0])
        return Array(
            "float32", (2,), "numpy.ndarray", head + len(text).to_bytes(2, "little") + text
        )
    if kind == "bytes":
        return Array("nonsense", draw(SHAPES), "numpy.ndarray", draw(st.binary(max_size=80)))
    if kind == "stype":
        return Array("float32", (1,), draw(st.text(max_size=9)), bytes(8))
    values = torch.tensor(draw(st.lists(FLOATS, max_size=5)), dtype=torch.float64)
    return Array((values if kind == "wide" else values.float()).numpy())


METRIC_VALUES = FLOATS | INTEGERS | st.lists(FLOATS, max_size=5) | st.lists(INTEGERS, max_size=5)
CONFIG_VALUES = (
    METRIC_VALUES | st.booleans() | st.text(max_size=30) | st.binary(max_size=9)
    | st.lists(st.text(max_size=5), max_size=3)
    | st.sampled_from(["[", "[[]]", "[[1,2]]", "{}", "null", "[" * 5000, '["a"]', '[["a", "b"]]'])
)  # fmt: skip
RECORDS = st.one_of(
    st.dictionaries(NAMES, arrays(), max_size=4).map(ArrayRecord),
    st.dictionaries(NAMES, METRIC_VALUES, max_size=6).map(MetricRecord),
    st.dictionaries(NAMES, CONFIG_VALUES, max_size=6).map(ConfigRecord),
)


def sound() -> dict[str, Any]:
    """Return the records of every kind of reply, all sound."""
    hello = encode_hello(ask_hello(1), NodeInfo("k", num_train=5)).content
    measured = encode_measured(question(), "k", Measured({TEST: STATS}, SetSums(4, 3, 6))).content
    return {
        "arrays": encode_tensors(SENT),
        "metrics": MetricRecord({"num-examples": 5, "loss": 0.5}),
        "sums": encode_tensors({"count": torch.tensor(4.0)}, torch.float64),
        NODE: hello.config_records[NODE],
        **encode_digests(question(), "k", DIGESTS).content.config_records,
        **measured.metric_records,
    }


@st.composite
def replies(draw: st.DrawFn) -> Message:
    """Sound replies of which some records are replaced, or have some entries replaced."""
    records = sound() | draw(st.dictionaries(NAMES, RECORDS, max_size=3))
    for name in draw(st.sets(st.sampled_from(sorted(sound())), max_size=2)):
        record = records[name]
        values = {ArrayRecord: arrays(), MetricRecord: METRIC_VALUES, ConfigRecord: CONFIG_VALUES}
        keys = st.sampled_from(sorted(record)) if record else NAMES
        record.update(draw(st.dictionaries(keys | NAMES, values[type(record)], max_size=3)))
    for name in draw(st.sets(st.sampled_from(sorted(sound())), max_size=1)):
        del records[name]
    return Message(RecordDict(records), reply_to=question())


def read_update(reply: Message) -> None:
    update = decode_update(reply, "k", SENT, 100.0, 5)
    assert update.num_examples == 5
    assert all(torch.isfinite(t).all() for t in [*update.adapter.values(), *update.aux.values()])
    assert all(math.isfinite(value) for value in update.metrics.values())


def read_measured(reply: Message) -> None:
    assert decode_measured(reply, {TEST: 4}, SPEC)[TEST].num_examples == 4


def read_sets(reply: Message) -> None:
    found = decode_sets(reply, 4, 3)
    assert 0 <= found.covered <= found.count == 4 <= found.size <= 12


def read_sums(reply: Message) -> None:
    found = decode_sums(reply, {"count": torch.zeros((), dtype=torch.float64)}, 4)
    assert float(found["count"]) == 4


def reason_of(read: Callable[[Message], None], reply: Message) -> str:
    try:
        read(reply)
    except UnusableMessageError as error:
        return str(error) or "\0"
    return ""


def read_digests(reply: Message) -> None:
    found = decode_digests(reply, NodeInfo("k", num_train=2, num_test=1))
    if found is not None:
        assert [len(kind) for kind in (found.train, found.calibration, found.test)] == [2, 0, 1]


@pytest.mark.parametrize("read", [read_update, read_measured, read_sums, read_digests, read_sets])
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(reply=replies())
def test_a_reply_is_used_or_dropped_with_one_line(
    read: Callable[[Message], None], reply: Message
) -> None:
    reason = reason_of(read, reply)
    assert reason.isprintable()
    assert len(reason) <= LONGEST_TEXT


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(reply=replies())
def test_an_answer_to_the_handshake_is_a_node_or_a_problem(reply: Message) -> None:
    info = decode_hello(reply, 1)
    assert isinstance(info.client, str)
    assert info.problem.isprintable()
    assert all(isinstance(name, str) for name in info.class_names)
    assert all(isinstance(text, str) for pair in info.versions + info.digests for text in pair)
    assert 0 <= info.num_train < 2**53 or info.num_train == -1
