"""Adapters: one form for all tensors, exact comparison, files that survive or are refused."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fl2ora.clip_tuning.adapter import (
    AdapterError,
    as_adapter,
    check_finite,
    check_like,
    load_adapter,
    num_bytes,
    num_parameters,
    save_adapter,
)


def test_as_adapter_returns_sorted_float32_copies() -> None:
    weight = torch.nn.Parameter(torch.arange(6, dtype=torch.float64).view(2, 3))
    made = as_adapter({"b": weight.T, "a": torch.ones(2, dtype=torch.bfloat16), "B": torch.ones(1)})
    assert list(made) == ["B", "a", "b"]
    assert {tensor.dtype for tensor in made.values()} == {torch.float32}
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in made.values())
    assert made["b"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_as_adapter_shares_no_memory_with_its_source() -> None:
    source = {"a": torch.zeros(3)}
    made = as_adapter(source)
    made["a"] += 1
    assert source["a"].tolist() == [0, 0, 0]
    source["a"] -= 1
    assert made["a"].tolist() == [1, 1, 1]


def test_check_like_ignores_values_and_order() -> None:
    check_like(
        {"b": torch.ones(2), "a": torch.ones(1)}, {"a": torch.zeros(1), "b": torch.zeros(2)}, "x"
    )
    check_like({}, {}, "x")


def test_check_like_lists_missing_unexpected_and_misshapen_names() -> None:
    expected = {"a": torch.zeros(2, 3), "b": torch.zeros(1), "c": torch.zeros(4)}
    received = {"a": torch.zeros(3, 2), "c": torch.zeros(()), "d": torch.zeros(1)}
    with pytest.raises(AdapterError) as caught:
        check_like(received, expected, "update of client 3")
    assert str(caught.value) == (
        "update of client 3: missing: b; unexpected: d; "
        "a has shape (3, 2), expected (2, 3), c has shape (), expected (4,)"
    )


def test_error_messages_list_at_most_five_names() -> None:
    names = {f"t{i}": torch.zeros(1) for i in range(8)}
    with pytest.raises(AdapterError, match=r"^x: missing: t0, t1, t2, t3, t4 and 3 more$"):
        check_like({}, names, "x")
    with pytest.raises(AdapterError, match=r"^x: unexpected: t0, t1, t2, t3, t4 and 3 more$"):
        check_like(names, {}, "x")
    with pytest.raises(AdapterError, match=r"t4 has shape \(1,\), expected \(2,\) and 3 more$"):
        check_like(names, {name: torch.zeros(2) for name in names}, "x")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_check_finite_counts_nan_and_infinity(bad: float) -> None:
    adapter = {"b": torch.tensor([[1.0, bad], [bad, 0.0]]), "a": torch.zeros(2)}
    with pytest.raises(AdapterError, match=r"^update: b has 2 of 4 values not finite$"):
        check_finite(adapter, "update")


def test_check_finite_accepts_extreme_values() -> None:
    check_finite({"a": torch.tensor([torch.finfo(torch.float32).max, -0.0, 1e-45])}, "x")
    check_finite({"a": torch.zeros(0)}, "x")


def test_num_bytes_and_num_parameters() -> None:
    adapter = {"a": torch.zeros(2, 3), "b": torch.zeros(())}
    assert num_parameters(adapter) == 7
    assert num_bytes(adapter) == 28
    assert num_parameters({}) == num_bytes({}) == 0


def test_saved_adapter_loads_bit_for_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    adapter = {"b.x": torch.randn(3, 4, generator=generator), "a": torch.tensor(1 / 3)}
    path = tmp_path / "adapter.safetensors"
    save_adapter(adapter, path)
    read = load_adapter(path)
    assert list(read) == ["a", "b.x"]
    assert all(torch.equal(read[name], adapter[name]) for name in read)
    assert set(load_file(path)) == {"a", "b.x"}  # readable by anyone else


def test_views_of_one_tensor_can_be_saved(tmp_path: Path) -> None:
    whole = torch.arange(6.0).view(2, 3)
    save_adapter({"a": whole, "b": whole.T, "c": whole[0]}, tmp_path / "x")
    assert load_adapter(tmp_path / "x")["b"].tolist() == whole.T.tolist()


def test_an_empty_adapter_can_be_saved_and_loaded(tmp_path: Path) -> None:
    save_adapter({}, tmp_path / "x")
    assert load_adapter(tmp_path / "x") == {}


def test_half_and_double_precision_files_load_as_float32(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([1.5], dtype=torch.bfloat16)}, tmp_path / "x")
    assert load_adapter(tmp_path / "x")["a"].dtype == torch.float32


@pytest.mark.parametrize("length", [0, 4, 20, 60, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "adapter.safetensors"
    save_adapter({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(AdapterError) as caught:
        load_adapter(path)
    assert str(caught.value).startswith(f"{path}: not a readable safetensors file: ")


def crafted(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps({"x": header}).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: tuple[int, ...] = (1,), start: int = 0, end: int = 4) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        crafted(b"{}", length=2**63),
        crafted(b"{}", length=90_000_000),
        crafted(entry(end=2**62), b"1234"),
        crafted(entry(start=-4, end=0), b"1234"),
        crafted(entry(start=4, end=8), b"12345678"),
        crafted(entry(shape=(2**62, 4)), b"1234"),
        crafted(entry(shape=(-1,)), b"1234"),
        crafted(json.dumps({"x": entry(), "y": entry()}).encode(), b"1234"),  # the same bytes
        crafted(b"[" * 200_000),
        crafted(b'{"__metadata__":' + b'{"a":' * 100_000),
        crafted(entry(), b"1234" + b"more"),
    ],
)
def test_crafted_bytes_are_refused_before_memory_is_taken(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(AdapterError, match=r"not a readable safetensors file"):
            load_adapter(path)
        assert tracemalloc.get_traced_memory()[1] < 2**21 + 2 * len(content)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (crafted(entry("F4", (8,)), b"1234"), "float4_e2m1fn_x2"),
        (crafted(entry("F8_E5M2", (4,)), b"1234"), "float8_e5m2"),
        (crafted(entry("BOOL", (4,)), b"1101"), "bool"),
        (crafted(entry("I32"), b"1234"), "int32"),
    ],
)
def test_numbers_of_other_types_are_refused(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(content)
    said = f"'x': expected float32, float16, bfloat16, float64, found {found}$"
    with pytest.raises(AdapterError, match=said):
        load_adapter(path)


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors here, but more than eight bytes")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "text"):
        with pytest.raises(AdapterError, match="not a readable safetensors file"):
            load_adapter(path)
