"""Records packed for a network come out as they went in, and crafted ones are refused."""

from __future__ import annotations

import json
import struct
import tracemalloc
from unittest import mock

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.superlink.grid.http_grid import HttpGrid
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.messages.packing import packed_both_ways, packed_for, unpack
from fl2ora.messages.records import UnusableMessageError
from fl2ora.messages.tensors import decode_tensors, encode_tensors

NETWORK, MEMORY = mock.Mock(spec=HttpGrid), mock.Mock(spec=Grid)
TENSORS = {f"layer.{number}": torch.arange(float(number + 1)) for number in range(150)}


def message_with(**records: ArrayRecord | ConfigRecord) -> Message:
    return Message(RecordDict(records), dst_node_id=1, message_type="train")


def sent(message: Message, grid: Grid = NETWORK) -> Message:
    (out,) = packed_for(grid, [message])
    return out


@given(
    st.dictionaries(
        st.text(),
        st.tuples(st.text(), st.lists(st.integers(0, 2**40)), st.text(), st.binary()),
        max_size=5,
    )
)
def test_what_is_packed_comes_out_as_it_was(
    arrays: dict[str, tuple[str, list[int], str, bytes]],
) -> None:
    def record() -> ArrayRecord:
        return ArrayRecord({n: Array(d, tuple(s), k, b) for n, (d, s, k, b) in arrays.items()})

    message = sent(message_with(arrays=record(), config=ConfigRecord({"a": 1})))
    assert unpack(message) == (len(arrays) > 1)
    assert list(message.content) == ["arrays", "config"]
    assert message.content["arrays"] == record()
    assert list(message.content.array_records["arrays"]) == list(arrays)
    assert not unpack(message)


def test_an_adapter_is_few_objects_on_the_way() -> None:
    message = sent(message_with(arrays=encode_tensors(TENSORS), aux=encode_tensors(TENSORS)))
    assert len(get_all_nested_objects(message)) <= 8
    assert unpack(message)
    found = decode_tensors(message.content.array_records["arrays"], "arrays")
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_within_one_process_nothing_is_packed() -> None:
    record = encode_tensors(TENSORS)
    assert sent(message_with(arrays=record), MEMORY).content["arrays"] is record


def test_what_several_messages_share_is_packed_once() -> None:
    shared = encode_tensors(TENSORS)
    another = encode_tensors({**TENSORS, "x": torch.ones(3)})
    first, second, other = packed_for(
        NETWORK, [message_with(arrays=record) for record in (shared, shared, another)]
    )
    assert first.content["arrays"] is second.content["arrays"]
    assert list(other.content.array_records["arrays"]) == ["packed"]
    assert unpack(other)
    assert "x" in other.content.array_records["arrays"]


@pytest.mark.parametrize("grid", [NETWORK, MEMORY])
def test_a_reply_goes_back_as_its_question_came(grid: Grid) -> None:
    question = sent(message_with(arrays=encode_tensors(TENSORS)), grid)

    def app(message: Message, _: Context) -> Message:
        assert set(message.content.array_records["arrays"]) == set(TENSORS)
        return Message(RecordDict({"arrays": encode_tensors(TENSORS)}), reply_to=message)

    reply = packed_both_ways(question, mock.Mock(spec=Context), app)
    packed = list(reply.content.array_records["arrays"]) == ["packed"]
    assert packed == (grid is NETWORK)
    assert unpack(reply) == packed
    assert set(reply.content.array_records["arrays"]) == set(TENSORS)


def crafted(description: bytes, rest: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(description) if length is None else length) + description + rest


def entry(name: object = "x", shape: object = (1,), length: object = 4) -> list[object]:
    return [name, "float32", shape, "numpy.ndarray", length]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        crafted(b"[]", length=2**63),
        crafted(b"{"),
        crafted(b"[" + b"[]," * 2**21 + b"[]]"),
        crafted(b"[" * 200_000),
        crafted(b"1" * 5000),
        crafted(b"7"),
        crafted(b"[7]"),
        crafted(b"[[1, 2]]"),
        crafted(b"\xff\xfe"),
        *(
            crafted(json.dumps(entries).encode(), b"1234")
            for entries in (
                [entry(length=2**62)],
                [entry(length=-4)],
                [entry(length=4.0)],
                [entry(length=True)],
                [entry(length=3)],
                [entry(), entry("y")],
                [entry(length=0), entry()],
                [entry(name=1)],
                [entry(name="\ud800")],
                [entry(shape=["a"])],
                [entry(shape=[-1])],
                [entry(shape=5)],
                [],
            )
        ),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_crafted_bytes_are_refused_in_one_line(data: bytes) -> None:
    record = ArrayRecord({"packed": Array("uint8", (len(data),), "fl2ora.packed", data)})
    tracemalloc.start()
    try:
        with pytest.raises(
            UnusableMessageError, match=r"^sums: expected .*packed arrays"
        ) as caught:
            unpack(message_with(sums=record))
        assert tracemalloc.get_traced_memory()[1] < 2**21 + 4 * len(data)
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
