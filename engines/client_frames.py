"""Flower's messages and contexts between two processes of one run, as bytes.

Tensors travel beside the protobuf message they belong to, since that may have 2 GiB at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Connection

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

Frames = list[bytes]


def send(channel: Connection, frames: Frames) -> None:
    """Send frames that ``receive`` returns at the other end.

    Raises:
        OSError: the other end is closed.
    """
    channel.send_bytes(len(frames).to_bytes(4, "big"))
    for frame in frames:
        channel.send_bytes(frame)


def receive(channel: Connection) -> Frames:
    """Return the next frames.

    Raises:
        EOFError, OSError: the other end is closed.
    """
    count = int.from_bytes(channel.recv_bytes(), "big")
    return [channel.recv_bytes() for _ in range(count)]


def task_frames(message: Message, context: Context) -> Frames:
    """Return a message to a node, with the node's context."""
    head, tensors = _message_apart(message)
    state, kept = _apart(context.state)
    bare = Context(context.run_id, context.node_id, context.node_config, state, context.run_config)
    return [head, context_to_proto(bare).SerializeToString(), *tensors, *kept]


def read_task(frames: Frames) -> tuple[Message, Context]:
    """Return what ``task_frames`` was given."""
    rest = iter(frames[2:])
    message = _message_together(frames[0], rest)
    context = context_from_proto(ProtoContext.FromString(frames[1]))
    context.state = _together(context.state, rest)
    return message, context


def answer_frames(reply: Message, state: RecordDict) -> Frames:
    """Return a node's reply, with what the node remembers from now on."""
    head, tensors = _message_apart(reply)
    bare, kept = _apart(state)
    return [head, recorddict_to_proto(bare).SerializeToString(), *tensors, *kept]


def read_answer(frames: Frames) -> tuple[Message, RecordDict]:
    """Return what ``answer_frames`` was given."""
    rest = iter(frames[2:])
    reply = _message_together(frames[0], rest)
    return reply, _together(recorddict_from_proto(ProtoRecordDict.FromString(frames[1])), rest)


def _message_apart(message: Message) -> tuple[bytes, Frames]:
    if message.has_error():
        return message_to_proto(message).SerializeToString(), []
    content, tensors = _apart(message.content)
    bare = make_message(metadata=message.metadata, content=content)
    return message_to_proto(bare).SerializeToString(), tensors


def _message_together(head: bytes, rest: Iterator[bytes]) -> Message:
    message = message_from_proto(ProtoMessage.FromString(head))
    if not message.has_error():
        message.content = _together(message.content, rest)
    return message


def _apart(records: RecordDict) -> tuple[RecordDict, Frames]:
    """Return records whose tensors are empty, and what was in them."""
    bare, tensors = RecordDict(), Frames()
    for name, record in records.items():
        if isinstance(record, ArrayRecord):
            tensors += [array.data for array in record.values()]
            bare[name] = _with_data(record, iter([b""] * len(record)))
        else:
            bare[name] = record
    return bare, tensors


def _together(bare: RecordDict, rest: Iterator[bytes]) -> RecordDict:
    """Return the records that ``_apart`` was given."""
    whole = RecordDict()
    for name, record in bare.items():
        whole[name] = _with_data(record, rest) if isinstance(record, ArrayRecord) else record
    return whole


def _with_data(record: ArrayRecord, data: Iterator[bytes]) -> ArrayRecord:
    arrays = {
        name: Array(array.dtype, array.shape, array.stype, next(data))
        for name, array in record.items()
    }
    return ArrayRecord(arrays, keep_input=False)
