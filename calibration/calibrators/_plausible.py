"""Can these sums be those of any examples at all? For sums that come from someone else.

What a number of examples bounds is checked: how uncertain predictions can be, how many of a kind
there are, what is never negative. How wrong predictions can be, no count bounds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fl2ora.calibration.calibrators.base import Sums

_SLACK = 1e-6  # of the largest number involved: sums are rounded


def check_between(name: str, value: Tensor, low: float, high: float, size: float = 0.0) -> None:
    """Refuse values outside ``low..high``.

    Args:
        name: how the message calls them.
        value: of any shape.
        low: least.
        high: largest.
        size: of what they were computed from, where that is larger.

    Raises:
        ValueError: names them, the range and the value that is farthest out.
    """
    slack = _SLACK * max(1.0, abs(low), abs(high) if math.isfinite(high) else 0.0, size)
    flat = value.reshape(-1)
    beyond = torch.maximum(low - flat, flat - high)
    if flat.numel() and not float(beyond.max()) <= slack:
        found = float(flat[beyond.argmax()])
        wanted = f"{low:.6g} to {high:.6g}" if math.isfinite(high) else f"at least {low:.6g}"
        raise ValueError(f"{name}: expected {wanted}, found {found:.6g}")


def check_uncertainty(loss: Tensor, along: Tensor, examples: float, num_classes: int) -> None:
    """Hold a summed log loss against the slope of the scores it was computed from.

    For ``p = softmax(s)`` the loss minus ``sum (p - onehot) s`` is the predictions' entropy, which
    lies between 0 and ``ln K`` for each example.

    Args:
        loss: summed.
        along: ``sum (p - onehot) s``: the gradient times the parameters, where s is linear in them.
        examples: how many.
        num_classes: K.

    Raises:
        ValueError: no examples have such sums.
    """
    check_between("loss", loss, 0, math.inf)
    size = abs(float(loss)) + abs(float(along))
    most = examples * math.log(num_classes)
    check_between("loss less slope, an entropy", loss - along, 0, most, size)


def check_semidefinite(name: str, matrix: Tensor) -> None:
    """Refuse a matrix that is no sum of squares ``x x'``.

    Raises:
        ValueError: it is not symmetric, or has a negative eigenvalue.
    """
    size = float(matrix.abs().max())
    slack = _SLACK * max(1.0, size)
    unit = torch.eye(len(matrix), dtype=matrix.dtype)
    _, failed = torch.linalg.cholesky_ex(matrix + slack * unit)
    if float((matrix - matrix.T).abs().max()) > slack or int(failed):
        raise ValueError(f"{name}: expected a sum of squares, found a matrix that is none")


def examples_of(sums: Sums) -> float:
    """Return the number of examples that sums say they are of."""
    return float(sums["count"].sum())
