"""The handshake: the server asks a node who it is, and the node says it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from fl2ora.messages.own_parts import PartInfo, parts_text, read_parts
from fl2ora.messages.records import CONFIG, HELLO, UnusableMessageError, error_reason, one_line

NODE = "node"
_LONGEST_LIST = 4_000_000  # characters: class names and versions


@dataclass(frozen=True)
class NodeInfo:
    """What a node says of itself before the first round.

    Attributes:
        client: key that stays the same between rounds and runs.
        source: ``partition`` of the run's dataset, or the node's ``own`` data.
        partition: index of the share it holds, -1 with own data.
        num_partitions: how many shares there are, 0 with own data.
        num_train: images it trains on.
        num_test: images it measures on.
        num_calibration: images it keeps to fit calibrators.
        device: where it computes.
        fingerprint: of its code.
        code_root: where that code lies.
        versions: of its libraries by name.
        digests: of what must be the server's too, by name; see ``run_digests``.
        class_names: of its classes in label order.
        templates: of its prompts.
        rank: of LoRA on this node, where its config sets one, else 0.
        parts: what it holds out of its own data by the run's protocol; none of a share.
        start: digest of the adapter that a run in its classes begins with; empty: it cannot say.
        problem: why it cannot take part, or empty.
    """

    client: str
    source: str = "own"
    partition: int = -1
    num_partitions: int = 0
    num_train: int = 0
    num_test: int = 0
    num_calibration: int = 0
    device: str = ""
    fingerprint: str = ""
    code_root: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    digests: tuple[tuple[str, str], ...] = ()
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    rank: int = 0
    parts: tuple[PartInfo, ...] = ()
    start: str = ""
    problem: str = ""


_NAMES = tuple(field.name for field in fields(NodeInfo))
_TEXTS = ("class_names", "templates")
_PARTS = "parts"
_LISTS = ("versions", "digests", _PARTS, *_TEXTS)  # they travel as JSON


def ask_hello(node: int) -> Message:
    """Return the server's question to one node."""
    return Message(RecordDict({CONFIG: ConfigRecord({})}), dst_node_id=node, message_type=HELLO)


def encode_hello(question: Message, info: NodeInfo) -> Message:
    """Return a node's answer."""
    values: dict[str, Any] = {name: getattr(info, name) for name in _NAMES}
    values |= {name: json.dumps(values[name]) for name in _LISTS if name != _PARTS}
    values[_PARTS] = parts_text(info.parts)
    return Message(RecordDict({NODE: ConfigRecord(values)}), reply_to=question)


def decode_hello(reply: Message, node_id: int) -> NodeInfo:
    """Return what a node of this id says; whatever cannot be read becomes its ``problem``.

    Another version of the code may lack or add keys: the fingerprint then says that it differs.
    """
    node = str(node_id)
    if reply.has_error():
        return NodeInfo(node, problem=error_reason(reply))
    try:
        record = reply.content.config_records[NODE]
        known = [name for name in _NAMES if name in record]
        values: dict[str, Any] = {name: _value(name, record[name]) for name in known}
        return NodeInfo(**values)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        return NodeInfo(
            node, problem=f"its answer to the handshake cannot be read: {one_line(error)}"
        )


def _value(name: str, value: object) -> object:
    """Check one field and return it.

    Raises:
        UnusableMessageError: it has another type, or is longer than it can be.
    """
    if name in _LISTS:
        return _read_list(name, value)
    default = getattr(NodeInfo, name, "")
    if isinstance(value, bool) or not isinstance(value, type(default)):
        raise UnusableMessageError(
            f"{name}: expected {type(default).__name__}, found {type(value).__name__}"
        )
    if isinstance(value, int) and not -1 <= value < 2**53:
        raise UnusableMessageError(f"{name}: expected a count, found {value}")
    return one_line(value) if isinstance(value, str) else value


def _read_list(name: str, value: object) -> tuple[object, ...]:
    if not isinstance(value, str) or len(value) > _LONGEST_LIST:
        raise UnusableMessageError(f"{name}: expected a JSON list")
    return _parsed(name, value)


@lru_cache(maxsize=2 * len(_LISTS))
def _parsed(name: str, value: str) -> tuple[object, ...]:
    # Kept: most nodes say the same, and a thousand of them need it in memory once.
    items = json.loads(value)
    if not isinstance(items, list):
        raise UnusableMessageError(f"{name}: expected a JSON list, found {type(items).__name__}")
    if name == _PARTS:
        return read_parts(items)
    if name in _TEXTS:
        if not all(isinstance(item, str) for item in items):
            raise UnusableMessageError(f"{name}: expected texts")
        return tuple(items)
    return tuple((one_line(key), one_line(version)) for key, version in items)
