"""What every calibrator checks and converts: logits, labels, counts, argument values."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fl2ora.calibration.row_blocks import ArrayLike

LARGEST = 1e100
"""Of a logit: fits sum squares, which are numbers still."""

PROBABILITY_FLOOR = 1e-12
"""Calibrated probabilities of 0 and 1 are drawn in by this much: logarithms stay finite."""


def scalar(value: float) -> Tensor:
    """Return ``value`` as a float64 tensor without dimensions."""
    return torch.tensor(float(value), dtype=torch.float64)


def as_logits(logits: ArrayLike) -> Tensor:
    """Return ``logits (N, K)`` detached, on the CPU, in float64; N may be 0.

    Raises:
        ValueError: not numbers in rows of two or more classes, or values that are not finite or
            beyond ``LARGEST``.
    """
    values = _as_tensor("logits", logits)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"logits: expected shape (N, K) with K >= 2, found {tuple(values.shape)}")
    if values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"logits: expected real numbers, found {values.dtype}")
    wide = values.detach().cpu().to(torch.float64)
    if not torch.isfinite(wide).all():
        raise ValueError(
            "logits: expected finite values, found NaN or infinity (drop the columns of masked "
            "classes instead of setting them to -inf)"
        )
    if wide.numel() and not float(wide.abs().max()) <= LARGEST:
        raise ValueError(
            f"logits: expected none beyond {LARGEST:g}, found {float(wide.abs().max()):g}"
        )
    return wide


def as_labels(labels: ArrayLike, logits: ArrayLike) -> Tensor:
    """Return ``labels (N,)`` as int64 on the CPU, checked against ``logits (N, K)``.

    Raises:
        ValueError: another length, a type that is not an integer, or a label outside 0..K-1.
    """
    values = _as_tensor("labels", labels)
    size, classes = _as_tensor("logits", logits).shape
    if tuple(values.shape) != (size,):
        raise ValueError(f"labels: expected shape ({size},), found {tuple(values.shape)}")
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"labels: expected integers, found {values.dtype}")
    targets = values.detach().cpu().to(torch.int64)
    if size and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        found = f"{int(targets.min())}..{int(targets.max())}"
        raise ValueError(f"labels: expected values in 0..{classes - 1}, found {found}")
    return targets


def _as_tensor(name: str, values: ArrayLike) -> Tensor:
    """Return a tensor of numbers from a tensor, an array or nested lists."""
    if isinstance(values, Tensor):
        return values
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of unequal length
        raise ValueError(f"{name}: expected rows of equal length: {error}") from None
    if array.dtype.kind not in "bfiuc":
        raise ValueError(f"{name}: expected numbers, found {type(values).__name__}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(np.array(array))  # a copy: read-only arrays are welcome


def check_classes(num_classes: int) -> None:
    """Raise a ValueError for fewer than two classes, which have nothing to calibrate."""
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, found {num_classes}")


def check_examples(owner: object, sums: Mapping[str, Tensor]) -> float:
    """Return the number of examples behind ``sums``; raise a ValueError if there are none."""
    count = float(sums["count"].sum())
    if not count > 0:
        raise ValueError(
            f"{type(owner).__name__}: expected at least one calibration example among all "
            f"clients, found {count:g}"
        )
    return count


def check_whole(name: str, value: object, least: int, most: int = 10**6) -> int:
    """Return ``value`` if it is a whole number in ``least..most``, else raise a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        expected = f"a whole number from {least} to {most}"
        raise ValueError(f"{name}: expected {expected}, found {value!r}")
    return value


def check_number(name: str, value: object, *, positive: bool = False) -> float:
    """Return ``value`` as a float if it is finite and >= 0 (``positive``: > 0), else raise."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    wide = float(value) if isinstance(value, int | float) else math.nan
    if not number or not math.isfinite(wide) or wide < 0 or (positive and wide == 0):
        expected = f"a number {'>' if positive else '>='} 0"
        raise ValueError(f"{name}: expected {expected}, found {value!r}")
    return wide


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``, else raise a ValueError that lists them."""
    if not isinstance(value, str) or value not in choices:
        expected = f"one of {', '.join(choices)}"
        raise ValueError(f"{name}: expected {expected}, found {value!r}")
    return value


def check_flag(name: str, value: object) -> bool:
    """Return ``value`` if it is True or False, else raise a ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, found {value!r}")
    return value


def pack(values: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Tensor:
    """Return ``values`` as one flat vector, in the order of ``like`` whatever their own."""
    return torch.cat([values[name].reshape(-1) for name in like])


def unpack(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inverse of ``pack`` with the names, order and shapes of ``like``."""
    parts = torch.split(flat, [value.numel() for value in like.values()])
    return {
        name: part.reshape(value.shape)
        for (name, value), part in zip(like.items(), parts, strict=True)
    }
