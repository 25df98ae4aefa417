"""Many arrays in one, on their way over a network.

Flower sends each array of a message as objects of their own, each fetched by a request of its own
and kept in a database between: some 300 requests for a LoRA adapter, on each of the three legs from
server to ClientApp and back. Packed, a record is one array. What arrives is taken apart before
anything else reads it, so that all other code sees records as they were.

A packed record has one array, whose bytes are: the length of a description, 8 bytes, little-endian;
the description, JSON, ``[name, dtype, shape, stype, length]`` of each array; the arrays' bytes.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable, Iterator

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid

from fl2ora.messages.records import UnusableMessageError

_NAME, _KIND = "packed", "fl2ora.packed"
_LENGTH = struct.Struct("<Q")
_FEWEST = 2
_LONGEST = 2**22  # bytes of a description, from which much more memory is made: some 40,000 names


def packed_for(grid: Grid, messages: Iterable[Message]) -> Iterator[Message]:
    """Yield messages as they go out: packed, if the grid is one over a network.

    Args:
        grid: that will send them.
        messages: to nodes; records that several of them share are packed once.
    """
    made: dict[int, tuple[ArrayRecord, ArrayRecord]] = {}
    for message in messages:
        if _over_network(grid):
            _pack(message, made)
        yield message


def unpack(message: Message) -> bool:
    """Take a message apart, if it has content and is packed; return whether it was.

    Raises:
        UnusableMessageError: what is packed does not fit its description.
    """
    if not message.has_content():
        return False
    found = {
        name: _unpacked(record, str(name))
        for name, record in message.content.array_records.items()
        if list(record) == [_NAME] and record[_NAME].stype == _KIND
    }
    if found:
        message.content = RecordDict({**dict(message.content), **found})
    return bool(found)


def packed_both_ways(message: Message, context: Context, call: ClientAppCallable) -> Message:
    """Take a message apart and pack the reply, if it came packed; a mod of the ClientApp."""
    was_packed = unpack(message)
    reply = call(message, context)
    if was_packed and reply.has_content():
        _pack(reply, {})
    return reply


def _over_network(grid: Grid) -> bool:
    # Nodes import this module, too; Flower's takes seconds, and whoever has such a grid has it.
    module = sys.modules.get("flwr.superlink.grid.http_grid")
    return module is not None and isinstance(grid, module.HttpGrid)


def _pack(message: Message, made: dict[int, tuple[ArrayRecord, ArrayRecord]]) -> None:
    """Pack a message's records; ``made`` has what was packed before, by the record's identity."""
    packed = {}
    for name, record in message.content.array_records.items():
        if len(record) >= _FEWEST:
            if id(record) not in made:  # the record is kept there, so that no other has its id
                made[id(record)] = record, _packed(record)
            packed[name] = made[id(record)][1]
    if packed:
        message.content = RecordDict({**dict(message.content), **packed})


def _packed(record: ArrayRecord) -> ArrayRecord:
    entries = [
        [name, array.dtype, list(array.shape), array.stype, len(array.data)]
        for name, array in record.items()
    ]
    described = json.dumps(entries).encode()
    data = b"".join(
        [_LENGTH.pack(len(described)), described, *(array.data for array in record.values())]
    )
    return ArrayRecord({_NAME: Array("uint8", (len(data),), _KIND, data)})


def _unpacked(record: ArrayRecord, where: str) -> ArrayRecord:
    data = record[_NAME].data
    if len(data) < _LENGTH.size:
        raise UnusableMessageError(f"{where}: expected packed arrays, found {len(data)} bytes")
    start = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    if start > _LONGEST:
        raise UnusableMessageError(
            f"{where}: expected packed arrays, described in at most {_LONGEST} bytes, found {start}"
        )
    arrays: dict[str, Array] = {}
    try:
        for name, dtype, shape, stype, length in json.loads(data[_LENGTH.size : start]):
            if not all(isinstance(text, str) for text in (name, dtype, stype)):
                raise TypeError("expected texts")
            f"{name}{dtype}{stype}".encode()  # JSON can escape what no other text can carry
            if not all(type(number) is int and number >= 0 for number in (length, *shape)):
                raise TypeError("expected whole numbers")
            if name in arrays or start + length > len(data):
                raise ValueError(f"{name!r:.80} is there twice, or ends beyond the message")
            arrays[name] = Array(dtype, tuple(shape), stype, data[start : start + length])
            start += length
    except (ValueError, TypeError, RecursionError) as error:
        raise UnusableMessageError(f"{where}: expected packed arrays, found {error}") from None
    if start != len(data):
        raise UnusableMessageError(
            f"{where}: expected {start} bytes of packed arrays, found {len(data)}"
        )
    return ArrayRecord(arrays)
