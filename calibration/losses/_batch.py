"""What the losses read off one batch, with gradients that stay finite at the edges.

Half-precision inputs are raised to float32 first: in float16 every confidence above 0.99976
rounds to 1. Wider inputs keep their type. NaN logits give a NaN loss; nothing here hides them.
Logits beyond ``LIMIT``, infinite ones included, count as ``LIMIT`` and get no gradient: a class
masked by -inf keeps the probability 0 without making products with it NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

LIMIT = 1e9
"""Largest size of a logit; the square of a difference still leaves room for sums in float32."""


def upcast(values: Tensor) -> Tensor:
    """Return float16 and bfloat16 ``values`` as float32, others unchanged.

    On the way back a gradient too large for the half type becomes its largest number, not infinity.
    """
    if values.dtype not in (torch.float16, torch.bfloat16):
        return values
    wide = values.float()
    if wide.requires_grad:
        most = torch.finfo(values.dtype).max
        wide.register_hook(lambda gradient: gradient.clamp(-most, most))
    return wide


def bounded(logits: Tensor) -> Tensor:
    """Return ``logits`` in float32 or wider, within ``LIMIT``; NaN stays."""
    return upcast(logits).clamp(-LIMIT, LIMIT)


def unit(vectors: Tensor) -> Tensor:
    """Return ``vectors (n, D)`` scaled to length one along D, in float32 or wider."""
    return functional.normalize(upcast(vectors), dim=-1)


def safe_sqrt(values: Tensor) -> Tensor:
    """Return the square root, with value and gradient 0 where ``values <= 0``."""
    zero = values <= 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, values).sqrt())


def safe_power(base: Tensor, exponent: Tensor | float) -> Tensor:
    """Return ``base ** exponent`` for base >= 0, with a finite gradient at base 0."""
    return base.clamp(min=torch.finfo(base.dtype).tiny) ** exponent


def check_shape(name: str, tensor: Tensor, expected: torch.Size) -> Tensor:
    """Return ``tensor`` if its shape is ``expected``.

    Raises:
        ValueError: it is not; the message names the tensor and both shapes.
    """
    if tensor.shape != expected:
        raise ValueError(f"{name}: expected shape {tuple(expected)}, found {tuple(tensor.shape)}")
    return tensor


@dataclass(frozen=True)
class Batch:
    """Predictions on one batch; the quantities carry gradients except ``correct``.

    Attributes:
        logits: ``(B, K)`` float32 or wider.
        labels: ``(B,)`` int64.
        log_p: ``(B, K)`` log-probabilities.
    """

    logits: Tensor
    labels: Tensor
    log_p: Tensor

    @property
    def num_classes(self) -> int:
        """K."""
        return self.logits.shape[1]

    @property
    def p(self) -> Tensor:
        """``(B, K)`` probabilities."""
        return self.log_p.exp()

    @property
    def log_py(self) -> Tensor:
        """``(B,)`` log-probability of the label."""
        return self.log_p.gather(1, self.labels[:, None])[:, 0]

    @property
    def predicted(self) -> Tensor:
        """``(B,)`` predicted classes; of equal logits the lowest index."""
        return self.logits.argmax(1)

    @property
    def confidence(self) -> Tensor:
        """``(B,)`` probability of the predicted class."""
        return self.log_p.gather(1, self.predicted[:, None])[:, 0].exp()

    @property
    def correct(self) -> Tensor:
        """``(B,)`` 1 where the predicted class is the label, else 0."""
        return (self.predicted == self.labels).to(self.logits.dtype)

    @property
    def one_hot(self) -> Tensor:
        """``(B, K)`` labels as indicators."""
        return functional.one_hot(self.labels, self.num_classes).to(self.logits.dtype)

    @property
    def entropy(self) -> Tensor:
        """``(B,)`` entropy of the prediction in nats."""
        return -(self.p * self.log_p).sum(1)


def read(logits: Tensor, labels: Tensor) -> Batch:
    """Return the batch of ``logits (B, K)`` and ``labels (B,)``.

    Raises:
        ValueError: logits are no floats of two axes with B, K >= 1, or labels no int64 of B in
            0 .. K - 1 (their range is checked on the CPU alone).
    """
    for name, values in (("logits", logits), ("labels", labels)):
        if not isinstance(values, Tensor):
            raise ValueError(f"{name}: expected a tensor, found {type(values).__name__}")
    if logits.ndim != 2 or 0 in logits.shape or not logits.is_floating_point():
        raise ValueError(
            "logits: expected floats of shape (B, K) with B, K >= 1, "
            f"found {logits.dtype} of shape {tuple(logits.shape)}"
        )
    if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels: expected int64 of shape ({logits.shape[0]},), "
            f"found {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if labels.device.type == "cpu":  # elsewhere looking at them would stop the device
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[1]:
            raise ValueError(
                f"labels: expected classes 0 to {logits.shape[1] - 1}, found {low} to {high}"
            )
    logits = bounded(logits)
    return Batch(logits, labels, logits.log_softmax(1))
