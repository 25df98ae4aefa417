"""Changes of tensors on their way in the parts that a ``Compression`` makes of them.

A part of a tensor travels as ``part:tensor``, such as ``levels:prompt``. Of a matrix sent without
the zeros at its ends, ``shape:`` says what was left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter, as_tensors
from fl2ora.experiment.blame import blaming
from fl2ora.messages.adapters import trimmed
from fl2ora.messages.records import UnusableMessageError, one_line
from fl2ora.messages.tensors import decode_array
from fl2ora.strategies.compression.base import Compression, Layout, Parts

_SHAPE = "shape"


def pack(
    change: Mapping[str, Tensor], compression: Compression, rng: torch.Generator
) -> tuple[Parts, Adapter]:
    """Return the parts of changes by the names under which they travel, and what they stand for.

    Args:
        change: float32 by name of the tensor.
        compression: makes the parts.
        rng: it may draw from.

    Raises:
        UserError: its parts are not those it has said.
    """
    corners, _ = trimmed(change)
    packed: Parts = {}
    meant: Adapter = {}
    for name in sorted(corners):
        corner, whole = corners[name], change[name]
        size = corner.numel()
        with blaming(compression):
            parts = as_tensors(compression.encode(corner.flatten(), rng)) if size else {}
            found = {part: (tensor.dtype, len(tensor)) for part, tensor in parts.items()}
            if found != (expected := _layout(compression, size)):
                raise TypeError(f"encode: expected parts {expected}, found {found}")
        if corner.shape != whole.shape:
            parts[_SHAPE] = torch.tensor(corner.shape, dtype=torch.int32)
        packed |= {f"{part}:{name}": tensor for part, tensor in parts.items()}
        values = _decoded(compression, parts, size, name)
        meant[name] = _placed(values.reshape(corner.shape), whole.shape)
    return packed, meant


def tensors_of(packed: Mapping[str, object]) -> set[str]:
    """Return the names of the tensors that parts are of."""
    return {key.partition(":")[2] for key in packed}


def unpack(record: ArrayRecord, sent: Mapping[str, Tensor], compression: Compression) -> Adapter:
    """Return the changes in a record, of the shapes of what was sent; every part is checked.

    Raises:
        UnusableMessageError: names the tensor, what was expected and what was found.
    """
    by_name: dict[str, dict[str, Array]] = {}
    for key, array in record.items():
        part, _, name = key.partition(":")
        by_name.setdefault(name, {})[part] = array
    if strange := sorted(by_name.keys() - sent.keys()):
        raise UnusableMessageError(f"update: unexpected: {one_line(', '.join(strange[:5]))}")
    changes = {}
    for name, arrays in by_name.items():
        shape = _shape(name, arrays.pop(_SHAPE, None), sent[name].shape)
        size = math.prod(shape)
        layout = _layout(compression, size)
        if arrays.keys() != layout.keys():
            raise UnusableMessageError(
                f"update: {name}: expected parts {sorted(layout)}, found {sorted(arrays)[:9]}"
            )
        parts = {part: decode_array(array, name, *layout[part]) for part, array in arrays.items()}
        values = _decoded(compression, parts, size, name)
        changes[name] = _placed(values.reshape(shape), sent[name].shape)
    return changes


def _layout(compression: Compression, size: int) -> Layout:
    with blaming(compression):
        return compression.layout(size) if size else {}


def _shape(name: str, found: Array | None, whole: torch.Size) -> tuple[int, ...]:
    if found is None:
        return tuple(whole)
    shape = tuple(map(int, decode_array(found, name, torch.int32, 2)))
    if len(whole) != 2 or not all(
        0 <= here <= there for here, there in zip(shape, whole, strict=True)
    ):
        raise UnusableMessageError(
            f"update: {name}: expected a corner of {tuple(whole)}, found {shape}"
        )
    return shape


def _decoded(compression: Compression, parts: Mapping[str, Tensor], size: int, name: str) -> Tensor:
    if not size:
        return torch.zeros(0)
    with blaming(compression):
        try:
            values = compression.decode(parts, size)
        except ValueError as error:
            reason = str(error)
        else:
            if values.shape != (size,) or values.dtype != torch.float32:
                raise TypeError(f"decode: expected {size} float32, found {tuple(values.shape)}")
            return values
    raise UnusableMessageError(f"update: {name}: {reason}")


def _placed(corner: Tensor, shape: torch.Size) -> Tensor:
    if corner.shape == shape:
        return corner
    whole = torch.zeros(shape)
    whole[: corner.shape[0], : corner.shape[1]] = corner
    return whole
