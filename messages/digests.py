"""Which images of nodes are copies of others: salted digests are asked for, and copies left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from fl2ora.federated_data.salted import MOST, Salted, SaltedImages, packed, unpacked
from fl2ora.messages.hello import NodeInfo
from fl2ora.messages.records import (
    CONFIG,
    DIGESTS,
    LEFT_OUT,
    REPLY,
    UnusableMessageError,
    refuse_error,
    reply_record,
)

_SALT, _IMAGES, _REFUSED = "salt", "images", "refused"
_KINDS = ("train", "calibration", "test")
_WIDTH = 8


def ask_digests(nodes: Iterable[int], salt: bytes) -> list[Message]:
    """Return the server's question to each node."""
    return [
        Message(
            RecordDict({CONFIG: ConfigRecord({_SALT: salt})}),
            dst_node_id=node,
            message_type=DIGESTS,
        )
        for node in nodes
    ]


def decode_salt(message: Message) -> bytes:
    """Return the salt a node is asked to use.

    Raises:
        UnusableMessageError: it is none.
    """
    salt = message.content.config_records[CONFIG].get(_SALT)
    if not isinstance(salt, bytes) or not 16 <= len(salt) <= 64:
        raise UnusableMessageError("salt: expected 16 to 64 bytes")
    return salt


def encode_digests(message: Message, client: str, images: SaltedImages | None) -> Message:
    """Return a node's answer; None: it does not give its digests away."""
    values: dict[str, bytes | bool] = {_REFUSED: images is None}
    if images is not None:
        values |= {kind: packed(getattr(images, kind)) for kind in _KINDS}
    records = {_IMAGES: ConfigRecord({**values}), REPLY: reply_record(client)}
    return Message(RecordDict({**records}), reply_to=message)


def decode_digests(reply: Message, info: NodeInfo) -> SaltedImages | None:
    """Return the digests of a node's images, None if it does not give them away.

    Args:
        reply: to ``ask_digests``.
        info: what the node said it holds.

    Raises:
        UnusableMessageError: an error, or what cannot be digests of so many images.
    """
    refuse_error(reply)
    record = reply.content.config_records.get(_IMAGES)
    if record is None or not isinstance(record.get(_REFUSED), bool):
        raise UnusableMessageError(f"expected a record {_IMAGES!r}")
    if record[_REFUSED]:
        return None
    test = info.num_test + sum(part.images for part in info.parts)
    counts = dict(zip(_KINDS, (info.num_train, info.num_calibration, test), strict=True))
    return SaltedImages(*(_array(kind, record.get(kind), counts[kind]) for kind in _KINDS))


def with_left_out(
    messages: Iterable[Message], salt: bytes, left_out: Mapping[int, Salted]
) -> Iterator[Message]:
    """Yield messages, those to nodes with copies of others' images with what they leave out."""
    for message in messages:
        found = left_out.get(message.metadata.dst_node_id)
        if found is not None:
            message.content[LEFT_OUT] = ConfigRecord({_SALT: salt, _IMAGES: packed(found)})
        yield message


def decode_left_out(message: Message) -> tuple[bytes, bytes]:
    """Return the salt and the digests, as bytes, of what a node leaves out; empty: nothing.

    Raises:
        UnusableMessageError: what was sent is something else.
    """
    record = message.content.config_records.get(LEFT_OUT)
    if record is None:
        return b"", b""
    salt, images = record.get(_SALT), record.get(_IMAGES)
    if not isinstance(salt, bytes) or not isinstance(images, bytes) or len(images) % _WIDTH:
        raise UnusableMessageError(f"{LEFT_OUT}: expected a salt and digests")
    return salt, images


def _array(kind: str, value: object, images: int) -> Salted:
    expected = min(images, MOST)
    if not isinstance(value, bytes) or len(value) != expected * _WIDTH:
        size = len(value) if isinstance(value, bytes) else 0
        raise UnusableMessageError(
            f"{kind}: expected digests of {expected} images, found {size / _WIDTH:g}"
        )
    return np.sort(unpacked(value))
