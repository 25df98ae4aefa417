"""Tensors survive the way bit by bit, and no bytes of a node are believed."""

from __future__ import annotations

import io
import re
import tracemalloc

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fl2ora.messages.records import UnusableMessageError
from fl2ora.messages.tensors import decode_tensors, encode_tensors, value_bytes


@given(
    npst.arrays(
        st.sampled_from([np.float32, np.float64]),
        npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )
)
def test_every_bit_survives(array: np.ndarray) -> None:
    tensor = torch.from_numpy(array.copy())
    found = decode_tensors(encode_tensors({"x": tensor}, tensor.dtype), "arrays", tensor.dtype)
    assert found["x"].dtype == tensor.dtype
    assert found["x"].shape == tensor.shape
    assert found["x"].numpy().tobytes() == array.tobytes()


def test_flower_reads_what_is_encoded() -> None:
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1.5)}
    record = encode_tensors(tensors)
    assert list(record) == ["a", "b"]
    found = record.to_torch_state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_what_flower_encodes_is_read() -> None:
    tensors = {"a": torch.rand(3, 2), "b": torch.rand(())}
    found = decode_tensors(ArrayRecord(dict(tensors)), "arrays")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_both_versions_of_numpys_header_are_read(version: tuple[int, int]) -> None:
    stream = io.BytesIO()
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.lib.format.write_array(stream, values, version)
    record = ArrayRecord({"x": Array("float32", (2, 3), "numpy.ndarray", stream.getvalue())})
    for _ in range(2):
        found = decode_tensors(record, "arrays")
        assert found["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert value_bytes(record) == 24


def test_a_decoded_tensor_is_the_receivers_own() -> None:
    record = encode_tensors({"x": torch.zeros(3)})
    first = decode_tensors(record, "arrays")
    first["x"] += 1
    assert torch.equal(decode_tensors(record, "arrays")["x"], torch.zeros(3))


def npy_header(shape: str, descr: str = "'<f4'", order: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def of_objects() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return stream.getvalue()


def of_columns() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asfortranarray(np.ones((2, 3), np.float32)))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not the bytes of an array"),
        (b"\x80\x04K\x01.", "not the bytes of an array"),
        (b"\x93NUMPY\x01\x00\x01\x00)", "not the bytes of an array"),
        (b"\x93NUMPY\x01\x00\x01\x00\x00", "not the bytes of an array"),
        (b"\x93NUMPY\x01\x00\xa0\x0f" + b"(" * 4000, "not the bytes of an array"),
        (b"\x93NUMPY\x01\x00\xa0\x0f" + b"-" * 4000, "not the bytes of an array"),
        (npy_header("(-2, -2)") + bytes(16), "shape (-2, -2)"),
        (npy_header("(0, -1, 3)"), "shape (0, -1, 3)"),
        (npy_header(f"(0, {10**30})"), "shape (0, 1000"),
        (npy_header(f"({'1, ' * 100})") + bytes(4), "shape (1, 1"),
        (of_objects(), "expected float32 by rows"),
        (of_columns(), "expected float32 by rows"),
        (npy_header("(2,)", "'<f8'") + bytes(16), "expected float32 by rows, found float64"),
        (npy_header("(2,)", "'>f4'") + bytes(8), "expected float32 by rows, found >f4"),
        (npy_header("(2,)", "'nonsense'") + bytes(8), "not the bytes of an array"),
        (npy_header("(2,)") + bytes(7), "needs 8 bytes, found 7"),
        (npy_header("(2,)") + bytes(9), "needs 8 bytes, found 9"),
        (npy_header("(100000000000, 1000000)") + bytes(8), "needs 400000000000000000 bytes"),
        (npy_header("(-2,)") + bytes(8), "needs -8 bytes"),
        (npy_header("('x',)") + bytes(8), "not the bytes of an array"),
        (npy_header("(" + "1," * 3000 + ")") + bytes(4), "not the bytes of an array"),
    ],
)
def test_bytes_that_are_no_plain_array_are_refused(data: bytes, reason: str) -> None:
    record = ArrayRecord({"x": Array("float32", (2,), "numpy.ndarray", data)})
    with pytest.raises(UnusableMessageError, match=re.escape(reason)):
        decode_tensors(record, "update")


def test_a_huge_shape_reserves_no_memory() -> None:
    data = npy_header("(4000000000,)") + bytes(8)
    record = ArrayRecord({"x": Array("float32", (2,), "numpy.ndarray", data)})
    tracemalloc.start()
    with pytest.raises(UnusableMessageError):
        decode_tensors(record, "update")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_another_serialisation_is_refused() -> None:
    record = ArrayRecord({"x": Array("float32", (1,), "pickle", bytes(4))})
    with pytest.raises(UnusableMessageError, match="expected bytes of a numpy"):
        decode_tensors(record, "update")


def test_float64_is_converted_where_it_may_come() -> None:
    record = encode_tensors({"x": torch.tensor([1 / 3, 2.0], dtype=torch.float64)}, torch.float64)
    found = decode_tensors(record, "arrays", torch.float32, torch.float64)["x"]
    assert torch.equal(found, torch.tensor([1 / 3, 2.0]))
    halves = ArrayRecord({"x": Array(np.ones(2, np.float16))})
    with pytest.raises(UnusableMessageError, match="expected float32 or float64 by rows, found fl"):
        decode_tensors(halves, "arrays", torch.float32, torch.float64)
