"""The one currency of a federation: named float32 tensors.

The global model, client results, strategy state, checkpoints and exports are all adapters; the base
weights of CLIP never travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl2ora.experiment.errors import shown

Adapter = dict[str, Tensor]

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class AdapterError(ValueError):
    """An adapter whose names, shapes or values are not what was expected."""


def as_adapter(tensors: Mapping[str, Tensor]) -> Adapter:
    """Return detached float32 CPU copies of ``tensors`` under sorted names.

    Raises:
        TypeError: they are no tensors by name.
    """
    names = sorted(as_tensors(tensors))
    copies = moved_at_once([tensors[name] for name in names], torch.device("cpu"))
    return {name: copy.contiguous() for name, copy in zip(names, copies, strict=True)}


def moved_at_once(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return detached float32 copies of ``tensors`` on ``device``.

    Between a CUDA device and the processor they travel as one: each copy waits for the device. On a
    device they are then parts of one tensor.
    """
    if device.type == "cpu" and all(tensor.device == device for tensor in tensors):
        return [tensor.detach().to(device, torch.float32, copy=True) for tensor in tensors]
    flat = [tensor.detach().to(torch.float32).reshape(-1) for tensor in tensors]
    parts = torch.cat(flat).to(device).split([tensor.numel() for tensor in tensors])
    views = [part.view(like.shape) for part, like in zip(parts, tensors, strict=True)]
    return [view.clone() for view in views] if device.type == "cpu" else views


def as_tensors(value: object) -> Adapter:
    """Return what someone else's code returned, as it is, if it is tensors by name.

    Raises:
        TypeError: says what was found.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"expected tensors by name, found {type(value).__name__}")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise TypeError(f"expected tensors by name, found {kind} under {shown(name)}")
    return dict(value)


def check_like(adapter: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Refuse an adapter whose names or shapes differ from ``expected``.

    Args:
        adapter: what was received.
        expected: tensors with the right names and shapes.
        what: how the message names the received adapter.

    Raises:
        AdapterError: lists up to five missing, unexpected and misshapen names.
    """
    problems = []
    for label, names in (
        ("missing", expected.keys() - adapter.keys()),
        ("unexpected", adapter.keys() - expected.keys()),
    ):
        if names:
            problems.append(f"{label}: {_some(sorted(names))}")
    misshapen = [
        f"{name} has shape {tuple(adapter[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & adapter.keys())
        if adapter[name].shape != expected[name].shape
    ]
    if misshapen:
        problems.append(_some(misshapen))
    if problems:
        raise AdapterError(f"{what}: " + "; ".join(problems))


def check_finite(adapter: Mapping[str, Tensor], what: str) -> None:
    """Refuse an adapter that holds NaN or infinity.

    Raises:
        AdapterError: names the first offending tensor and how many of its values are not finite.
    """
    for name in sorted(adapter):
        bad = int((~torch.isfinite(adapter[name])).sum())
        if bad:
            raise AdapterError(
                f"{what}: {name} has {bad} of {adapter[name].numel()} values not finite"
            )


def in_three(name: str, tensor: Tensor) -> Adapter:
    """Return a finite float64 tensor, exactly, as three of float32 that add up to it.

    >>> x = torch.tensor([0.1], dtype=torch.float64)
    >>> bool(from_three("x", in_three("x", x)) == x), bool(x.float().double() == x)
    (True, False)
    """
    parts: Adapter = {}
    for number in range(3):
        parts[f"{name}/{number}"] = tensor.to(torch.float32)
        tensor = tensor - parts[f"{name}/{number}"].double()
    return parts


def from_three(name: str, parts: Mapping[str, Tensor]) -> Tensor:
    """Return the float64 tensor that ``in_three`` took apart."""
    first, second, third = (parts[f"{name}/{number}"].double() for number in range(3))
    return first + second + third


def changes(adapter: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Adapter:
    """Return the tensors that are not, bit by bit, those of the same names in ``start``.

    >>> start = {"a": torch.zeros(2), "b": torch.zeros(2)}
    >>> changes({"a": torch.zeros(2), "b": torch.ones(2)}, start)
    {'b': tensor([1., 1.])}
    """
    return {
        name: tensor
        for name, tensor in adapter.items()
        if name not in start or not _same_bits(tensor, start[name])
    }


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    first, second = (t.detach().cpu().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(first, second)


def num_bytes(adapter: Mapping[str, Tensor]) -> int:
    """Return the bytes of the tensors, without names and headers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in adapter.values())


def num_parameters(adapter: Mapping[str, Tensor]) -> int:
    """Return the number of values in all tensors."""
    return sum(tensor.numel() for tensor in adapter.values())


def save_adapter(adapter: Adapter, path: Path) -> None:
    """Write an adapter as a safetensors file."""
    save_file(as_adapter(adapter), path)


def load_adapter(path: Path) -> Adapter:
    """Read an adapter from a safetensors file.

    Raises:
        AdapterError: the file is missing, truncated or no safetensors file, or holds something
            other than floating-point numbers of 16 bits or more.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path}: not a readable safetensors file: {error}") from None
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS:
            wanted = ", ".join(str(kind).removeprefix("torch.") for kind in _FLOATS)
            found = str(tensor.dtype).removeprefix("torch.")
            raise AdapterError(f"{path}: {shown(name)}: expected {wanted}, found {found}")
    return as_adapter(tensors)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
