"""The run's classes in their order, sent to nodes whose own differ."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence

from flwr.app import ConfigRecord, Message

from fl2ora.messages.records import CLASSES, UnusableMessageError

_NAMES = "names"


def with_classes(
    messages: Iterable[Message], class_names: Sequence[str], nodes: Collection[int]
) -> Iterator[Message]:
    """Yield messages, those to ``nodes`` with the names of the run's classes in label order."""
    text = json.dumps(list(class_names))
    for message in messages:
        if message.metadata.dst_node_id in nodes:
            message.content[CLASSES] = ConfigRecord({_NAMES: text})
        yield message


def decode_classes(message: Message) -> tuple[str, ...]:
    """Return the run's classes; empty where they are the node's own, in their order.

    Raises:
        UnusableMessageError: what was sent is no list of names.
    """
    record = message.content.config_records.get(CLASSES)
    if record is None:
        return ()
    try:
        names = json.loads(str(record[_NAMES]))
    except (KeyError, ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnusableMessageError(f"{CLASSES}: expected a JSON list of names")
    return tuple(names)
