"""Compressed changes arrive as they were meant, and nothing is believed of their parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict
from torch import Tensor

from fl2ora.client_app.compressing import compressed
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.messages.compressed import pack, unpack
from fl2ora.messages.records import UnusableMessageError
from fl2ora.messages.tensors import encode_parts, value_bytes
from fl2ora.messages.train import (
    TrainTask,
    decode_train,
    decode_update,
    encode_train,
    encode_update,
)
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.compression.base import Compression, Layout, Parts
from fl2ora.strategies.compression.fp16 import FP16
from fl2ora.strategies.compression.int8 import Int8
from fl2ora.strategies.updates import ClientUpdate

SENT: Adapter = {"a": torch.ones(4, 8), "b": torch.zeros(6, 4), "c": torch.tensor([0.5, -0.5])}


def answered(adapter: Adapter, spec: str) -> Message:
    task = TrainTask(SENT, changes_only=True, compression=spec)
    update, _ = compressed(ClientUpdate("k", adapter, 5), SENT, spec, {}, seed=1)
    question = Message(RecordDict(), dst_node_id=1, message_type="train")
    return encode_update(question, update, task)


def test_the_server_says_how_it_wants_changes() -> None:
    (message,) = encode_train(RoundPlan(1, SENT, ("k",)), {1: "k"}, 1, compression="int8(bucket=9)")
    assert decode_train(message).compression == "int8(bucket=9)"
    (message,) = encode_train(
        RoundPlan(1, SENT, ("k",)), {1: "k"}, 1, settings={"compression": "int8"}
    )
    assert not decode_train(message).compression, "what others put there is not ours"


def test_an_exact_compression_gives_the_update_to_the_bit() -> None:
    rng = torch.Generator().manual_seed(0)
    b = torch.zeros(6, 4)
    b[:, 0] = torch.randn(6, generator=rng)  # rank 1: six values of 24
    adapter = {**SENT, "b": b}
    message = answered(adapter, "top_k(share=1.0)")
    arrays = message.content.array_records["arrays"]
    assert sorted(arrays) == ["mask:b", "shape:b", "values:b"]
    assert value_bytes(arrays) == 6 * 4 + 1 + 2 * 4
    found = decode_update(message, "k", SENT, compression=load("top_k(share=1.0)", Compression))
    assert list(found.adapter) == ["a", "b", "c"]
    assert all(torch.equal(found.adapter[name], adapter[name]) for name in SENT)


@pytest.mark.parametrize("spec", ["fp16", "int8", "top_k"])
def test_what_arrives_is_the_start_and_what_was_meant(spec: str) -> None:
    rng = torch.Generator().manual_seed(3)
    change = {name: torch.randn(t.shape, generator=rng) for name, t in SENT.items()}
    adapter = {name: SENT[name] + change[name] for name in SENT}
    compression = load(spec, Compression)
    exact = {name: (adapter[name].double() - SENT[name].double()).float() for name in SENT}
    _, meant = pack(exact, compression, torch.Generator().manual_seed(1))
    found = decode_update(answered(adapter, spec), "k", SENT, compression=compression).adapter
    for name, tensor in SENT.items():
        assert torch.equal(found[name], (tensor.double() + meant[name].double()).float())
        assert not torch.equal(meant[name], torch.zeros_like(tensor))


def altered(change: Mapping[str, Tensor], drop: tuple[str, ...] = ()) -> Message:
    message = answered({**SENT, "c": SENT["c"] + 1}, "int8")
    parts: Parts = {"levels:c": torch.tensor([127, 127], dtype=torch.int8)}
    parts["scales:c"] = torch.tensor([1 / 127])
    parts |= change
    message.content["arrays"] = encode_parts({n: t for n, t in parts.items() if n not in drop})
    return message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lambda: altered({"levels:c": torch.zeros(2)}), r"c: expected int8 by rows, found float32"),
        (lambda: altered({"levels:c": torch.zeros(3, dtype=torch.int8)}), r"expected 2 values"),
        (
            lambda: altered({"scales:c": torch.zeros(2)}),
            r"c: expected 1 values, found shape \(2,\)",
        ),
        (lambda: altered({"scales:c": torch.tensor([torch.inf])}), "c: scales: expected finite"),
        (
            lambda: altered({"levels:c": torch.tensor([-128, 0], dtype=torch.int8)}),
            "c: levels: expected -127 to 127",
        ),
        (lambda: altered({}, ("scales:c",)), r"expected parts \['levels', 'scales'\], found \['l"),
        (lambda: altered({"more:c": torch.zeros(1)}), "expected parts .*'more'"),
        (lambda: altered({"levels:d": torch.zeros(1)}), "unexpected: d"),
        (lambda: altered({"c": torch.zeros(2)}), "unexpected:"),
        (
            lambda: altered({"shape:c": torch.tensor([1, 1], dtype=torch.int32)}),
            r"c: expected a corner of \(2,\), found \(1, 1\)",
        ),
        (lambda: altered({"scales:c": torch.tensor([3e38])}), "c has 2 of 2 values not finite"),
    ],
)
def test_parts_that_are_none_are_refused(message: Any, reason: str) -> None:
    assert decode_update(altered({}), "k", SENT, compression=Int8())
    with pytest.raises(UnusableMessageError, match=reason):
        decode_update(message(), "k", SENT, compression=Int8())


@pytest.mark.parametrize("shape", [(5, 1), (1, 9), (-1, 1), (2**31 - 1, 2**31 - 1)])
def test_a_corner_lies_within_the_matrix(shape: tuple[int, int]) -> None:
    parts = encode_parts({"shape:a": torch.tensor(shape, dtype=torch.int32)})
    with pytest.raises(UnusableMessageError, match=r"a: expected a corner of \(4, 8\)"):
        unpack(parts, SENT, Int8())


def test_an_uncompressed_reply_and_one_of_another_kind_are_refused() -> None:
    plain = encode_update(
        Message(RecordDict(), dst_node_id=1, message_type="train"), ClientUpdate("k", SENT, 5)
    )
    with pytest.raises(UnusableMessageError, match="unexpected"):
        decode_update(plain, "k", SENT, compression=Int8())
    adapter = {**SENT, "c": SENT["c"] + 1}
    with pytest.raises(UnusableMessageError, match="expected parts"):
        decode_update(answered(adapter, "int8"), "k", SENT, compression=FP16())
    with pytest.raises(UnusableMessageError, match="expected float32"):
        decode_update(answered(adapter, "int8"), "k", SENT)


def test_left_out_tensors_are_counted_here_too() -> None:
    message = answered({**SENT, "c": SENT["c"] + 1}, "int8")
    assert message.content.config_records["reply"]["unchanged"] == 2
    message.content.config_records["reply"]["unchanged"] = 1
    with pytest.raises(UnusableMessageError, match="missing: a, b"):
        decode_update(message, "k", SENT, compression=Int8())


class Wrong(Compression):
    """Says one thing and does another."""

    def layout(self, size: int) -> Layout:
        """Promise bytes."""
        return {"x": (torch.int8, size)}

    def encode(self, values: Tensor, rng: torch.Generator) -> Parts:
        """Return floats."""
        return {"x": values}

    def decode(self, parts: Mapping[str, Tensor], size: int) -> Tensor:
        """Return too few."""
        return torch.zeros(1)


def test_a_compression_that_breaks_its_word_is_named() -> None:
    with pytest.raises(UserError, match=r"Wrong: TypeError: encode: expected parts"):
        pack({"c": torch.ones(2)}, Wrong(), torch.Generator())
    parts = encode_parts({"x:c": torch.ones(2, dtype=torch.int8)})
    with pytest.raises(UserError, match=r"Wrong: TypeError: decode: expected 2 float32"):
        unpack(parts, SENT, Wrong())
