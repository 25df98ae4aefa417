"""The handshake's answer survives the way, and garbage is a problem of the node that sent it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fl2ora.messages.hello import NODE, NodeInfo, ask_hello, decode_hello, encode_hello
from fl2ora.messages.own_parts import PartInfo

INFO = NodeInfo(
    "site-a",
    source="partition",
    partition=3,
    num_partitions=10,
    num_train=7,
    num_test=2,
    num_calibration=1,
    device="cuda:1",
    fingerprint="0123456789abcdef",
    code_root="/srv/app",
    versions=(("torch", "2.6"), ("flwr", "1.41")),
    digests=(("base weights", "0123456789abcdef"),),
    class_names=("cat", "ankle boot"),
    rank=4,
    parts=(
        PartInfo("new", 5, ("dog", "sandal"), ("a {}.",)),
        PartInfo("", 0, lacking="no such domain"),
    ),
    problem="no CUDA",
)

SOUND = {"name": "new", "images": 3, "class_names": ["x", "y"], "templates": [], "lacking": ""}
WRONG_PARTS: list[object] = [
    {"name": "new"},
    [["new", 3]],
    [{"name": "new"}],
    [{**SOUND, "novelty": 1}],
    [{**SOUND, "images": -1}],
    [{**SOUND, "images": True}],
    [{**SOUND, "name": 7}],
    [{**SOUND, "name": "a/b"}],
    [{**SOUND, "name": "a-mean"}],
    [{**SOUND, "name": "a\x1b[2J"}],
    [{**SOUND, "name": "x" * 101}],
    [SOUND] * 2,
    [{**SOUND, "name": f"part {number}"} for number in range(101)],
    [{**SOUND, "class_names": "cat"}],
    [{**SOUND, "templates": [1]}],
]


def answer(**fields: Any) -> Message:
    message = encode_hello(ask_hello(8), INFO)
    message.content.config_records[NODE].update(fields)
    return message


def test_everything_a_node_says_survives_the_way() -> None:
    assert decode_hello(encode_hello(ask_hello(8), INFO), 8) == INFO


def test_another_versions_answer_is_read_as_far_as_it_goes() -> None:
    content = RecordDict({NODE: ConfigRecord({"client": "old", "num_train": 4, "novelty": True})})
    assert decode_hello(Message(content, reply_to=ask_hello(8)), 8) == NodeInfo("old", num_train=4)


@pytest.mark.parametrize(
    "message",
    [
        lambda: Message(RecordDict(), reply_to=ask_hello(8)),
        lambda: Message(RecordDict({NODE: ConfigRecord({})}), reply_to=ask_hello(8)),
        lambda: answer(client=5),
        lambda: answer(num_train="many"),
        lambda: answer(num_train=2.5),
        lambda: answer(num_train=True),
        lambda: answer(num_test=-7),
        lambda: answer(num_test=2**60),
        lambda: answer(class_names="no json"),
        lambda: answer(class_names="{}"),
        lambda: answer(class_names="[1, 2]"),
        lambda: answer(class_names="[" * 100_000),
        lambda: answer(versions='["torch"]'),
        lambda: answer(versions="[[1, 2, 3]]"),
        lambda: answer(class_names="x" * 5_000_000),
        *(lambda wrong=wrong: answer(parts=json.dumps(wrong)) for wrong in WRONG_PARTS),
    ],
)
def test_an_answer_that_cannot_be_read_is_the_nodes_problem(message: Any) -> None:
    info = decode_hello(message(), 8)
    assert info.client == "8"
    assert info.problem.startswith("its answer to the handshake cannot be read: ")
    assert info.problem.isprintable()
    assert len(info.problem) < 1200


def test_sound_parts_are_read() -> None:
    info = decode_hello(answer(parts=json.dumps([SOUND])), 8)
    assert info.parts == (PartInfo("new", 3, ("x", "y")),)


def test_an_error_is_the_nodes_problem() -> None:
    info = decode_hello(Message(Error(1, "Traceback\nImportError: peft"), reply_to=ask_hello(8)), 8)
    assert info.problem == "ImportError: peft"


def test_texts_become_one_printable_line() -> None:
    assert decode_hello(answer(device="cuda\x1b[2J\n[bold]"), 8).device == "cuda [2J [bold]"


def test_what_many_nodes_say_alike_is_in_memory_once() -> None:
    first, second = (
        decode_hello(encode_hello(ask_hello(8), replace(INFO, client=name)), 8) for name in "ab"
    )
    for name in ("versions", "digests", "class_names", "templates", "parts"):
        assert getattr(first, name) is getattr(second, name)
    assert (first.client, second.client) == ("a", "b")
