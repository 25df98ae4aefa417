"""Named tensors as an ArrayRecord, and back; nothing is believed of the bytes that arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.lib import format as npy
from torch import Tensor

from fl2ora.clip_tuning.adapter import as_tensors
from fl2ora.messages.records import UnusableMessageError

_STYPE = "numpy.ndarray"
_USUAL = npy.magic(1, 0)
_DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype("<f4"),
    torch.float64: np.dtype("<f8"),
    torch.float16: np.dtype("<f2"),
    torch.int8: np.dtype("i1"),
    torch.uint8: np.dtype("u1"),
    torch.int32: np.dtype("<i4"),
}


def encode_tensors(
    tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> ArrayRecord:
    """Return the tensors under sorted names.

    Raises:
        TypeError: they are no tensors by name.
    """
    tensors = as_tensors(tensors)
    return ArrayRecord(
        {
            name: Array(tensors[name].detach().to("cpu", dtype).contiguous().numpy())
            for name in sorted(tensors)
        }
    )


def decode_tensors(
    record: ArrayRecord, what: str, dtype: torch.dtype = torch.float32, *also: torch.dtype
) -> dict[str, Tensor]:
    """Return the tensors of a record, under sorted names; each is copied once.

    An array is refused before any memory is reserved for it unless its header says the expected
    type and exactly as many bytes as there are.

    Args:
        record: received.
        what: how a message names it.
        dtype: float32 or float64.
        also: another one that may come, and is converted.

    Raises:
        UnusableMessageError: names the array and what was found.
    """
    taken = [_DTYPES[dtype], *(_DTYPES[other] for other in also)]
    return {
        name: _decoded(record[name], f"{what}: {name}", taken).to(dtype) for name in sorted(record)
    }


def encode_parts(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Return tensors of whatever of our types, each as it is, under sorted names."""
    return ArrayRecord({name: Array(tensors[name].numpy()) for name in sorted(tensors)})


def decode_array(array: Array, what: str, dtype: torch.dtype, length: int) -> Tensor:
    """Return one array that has just this type and length.

    Raises:
        UnusableMessageError: says what was found.
    """
    tensor = _decoded(array, f"update: {what}", [_DTYPES[dtype]])
    if tensor.shape != (length,):
        raise UnusableMessageError(
            f"update: {what}: expected {length} values, found shape {tuple(tensor.shape)}"
        )
    return tensor


def value_bytes(*records: ArrayRecord | None) -> int:
    """Return the bytes of the values in records, without names and headers.

    Args:
        records: made here, or received and decoded without an error; None: nothing.
    """
    arrays = (array for record in records if record is not None for array in record.values())
    return sum(len(array.data) - _header(array.data)[-1] for array in arrays)


def _decoded(array: Array, where: str, taken: Sequence[np.dtype[Any]]) -> Tensor:
    if array.stype != _STYPE:
        raise UnusableMessageError(
            f"{where}: expected bytes of a {_STYPE}, found {array.stype!r:.80}"
        )
    data = array.data
    try:
        shape, in_columns, kind, start = _header(data)
    except Exception as error:  # numpy lets Python's own parsers read the header, which raise all
        # kinds: SyntaxError, tokenize.TokenError, RecursionError
        raise UnusableMessageError(f"{where}: not the bytes of an array: {error!s:.200}") from None
    if kind not in taken or (in_columns and len(shape) > 1):
        wanted = " or ".join(map(str, taken))
        raise UnusableMessageError(f"{where}: expected {wanted} by rows, found {kind!s:.80}")
    rest = len(data) - start
    # Python's integers, which do not overflow.
    size = kind.itemsize
    for length in shape:
        size *= int(length)
    if size != rest:
        raise UnusableMessageError(f"{where}: shape {shape} needs {size} bytes, found {rest}")
    try:
        values = np.frombuffer(data, kind, offset=start).reshape(shape)
    except (ValueError, OverflowError) as error:  # negative, too many or too large dimensions
        raise UnusableMessageError(f"{where}: shape {shape!s:.80}: {error!s:.200}") from None
    return torch.from_numpy(values.astype(kind.newbyteorder("="), copy=True))


def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether it lies by columns, type, and where the values begin."""
    if not data.startswith(_USUAL):
        return _read_header(data)
    at = len(_USUAL) + 2
    return _usual_header(data[: at + int.from_bytes(data[at - 2 : at], "little")])


def _read_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    stream = BytesIO(data)
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, in_columns, kind = read(stream, max_header_size=4096)
    return shape, in_columns, kind, stream.tell()


# Numpy has Python's parser read each header, and the same few come over and over again.
_usual_header = lru_cache(maxsize=1024)(_read_header)
