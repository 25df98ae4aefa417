"""From logits or probabilities to what calibration metrics read: confidence and correctness.

Every function says which of the two it takes; nothing is guessed from the range of the values.
Logits are widened and the softmax is done in float64, because in float16 every confidence above
about 0.99976 rounds to exactly 1. Probabilities are taken as they are, and summed in float64. Rows
are worked on in blocks, so an ``(N, K)`` input costs a few megabytes on top of itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fl2ora.calibration.binning import Floats, Integers
from fl2ora.calibration.row_blocks import (
    ArrayLike,
    check_rows,
    checked_labels,
    raise_bad_rows,
    split_rows,
)

__all__ = [
    "BLOCKS_AT_ONCE",
    "ArrayLike",
    "Block",
    "Scores",
    "blocks_of_logits",
    "blocks_of_probabilities",
    "concatenate_scores",
    "probabilities_of",
    "scores_of",
    "scores_of_block",
    "two_class_probabilities",
]


BLOCKS_AT_ONCE = 64  # how many blocks' (n,) scores are kept apart before they are put together


@dataclass(frozen=True)
class Block:
    """Some consecutive rows, on the device of the input.

    Attributes:
        probabilities: ``(n, K)`` float64, or float32 where probabilities came so or in half
            precision; for reading only.
        labels: ``(n,)`` int64 in ``0 .. K - 1``.
        predicted: ``(n,)`` the most probable class; of equal ones the lowest index.
        confidence: ``(n,)`` float64, its probability.
        nll: ``(n,)`` float64, ``-log p`` of the label, natural logarithm.
    """

    probabilities: Tensor
    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    nll: Tensor


@dataclass(frozen=True)
class Scores:
    """What top-1 metrics need of N examples; all ``(N,)``, float64 unless said.

    Attributes:
        confidence: highest probability, in [0, 1].
        correct: 1 where the prediction equals the label, else 0.
        predicted: int64 predicted class.
        nll: ``-log p`` of the label; infinite where that probability is exactly 0.
        brier: ``sum_j (p_j - 1[y = j])^2``, in [0, 2].
    """

    confidence: Floats
    correct: Floats
    predicted: Integers
    nll: Floats
    brier: Floats


def probabilities_of(logits: ArrayLike) -> Tensor:
    """Return the softmax of ``logits (N, K)`` as float64 probabilities ``(N, K)``.

    Raises:
        ValueError: not two-dimensional, or a row holds NaN or an infinity.

    Example:
        >>> probabilities_of(np.log(np.array([[3.0, 1.0]]))).tolist()
        [[0.75, 0.25]]
    """
    check_rows(logits, "logits")
    parts = split_rows(logits, least=torch.float64)
    blocks = [_softmax(part, logits).probabilities for _, part in parts]
    return torch.cat(blocks) if blocks else torch.zeros(tuple(logits.shape), dtype=torch.float64)


def two_class_probabilities(scores: ArrayLike) -> Tensor:
    """Return ``(N, 2)`` float64 probabilities of classes 0 and 1 from binary ``scores (N,)``.

    Args:
        scores: probability of class 1.

    Raises:
        ValueError: not one-dimensional, no floats, or a score is NaN or outside [0, 1].

    Example:
        >>> two_class_probabilities(np.array([0.25, 1.0])).tolist()
        [[0.75, 0.25], [0.0, 1.0]]
    """
    given = torch.as_tensor(scores).detach()
    if given.ndim != 1 or not given.is_floating_point():
        raise ValueError(
            f"binary scores must be floats of shape (N,), found {given.dtype} {tuple(given.shape)}"
        )
    s = given.double()
    outside = ~((s >= 0) & (s <= 1))
    if outside.any():
        raise ValueError(
            f"{int(outside.sum())} of {len(s)} binary scores lie outside [0, 1] or are NaN "
            f"(first: {float(s[outside][0])})"
        )
    return torch.stack([1 - s, s], dim=1)


def blocks_of_logits(logits: ArrayLike, labels: ArrayLike) -> Iterator[Block]:
    """Yield the rows of ``logits (N, K)`` with ``labels (N,)`` as blocks of probabilities.

    Raises:
        ValueError: wrong shapes, labels outside ``0 .. K - 1``, or NaN or infinite logits.
    """
    check_rows(logits, "logits")
    targets = checked_labels(labels, logits, "logits")
    for where, z in split_rows(logits, least=torch.float64):
        y = targets[where].to(z.device)
        softmax = _softmax(z, logits)
        margin = softmax.top - _pick(z, y)
        nll = softmax.total.log() + margin
        yield Block(softmax.probabilities, y, softmax.predicted, 1 / softmax.total, nll)


def blocks_of_probabilities(probabilities: ArrayLike, labels: ArrayLike) -> Iterator[Block]:
    """Yield the rows of ``probabilities (N, K)`` with ``labels (N,)`` as blocks.

    Rows are used as they are, not renormalised; only a rounding excess over 1 is cut off.

    Raises:
        ValueError: wrong shapes, labels outside ``0 .. K - 1``, or rows that are no distribution.
    """
    check_rows(probabilities, "probabilities", least=2)  # (N, 1) is of class 1 alone
    targets = checked_labels(labels, probabilities, "probabilities")
    tolerance = _tolerance(probabilities)
    for where, p in split_rows(probabilities, least=torch.float32):
        y = targets[where].to(p.device)
        if not (p.amin() >= 0 and _sums_to_one(p, tolerance).all()):
            raise_bad_rows(
                probabilities,
                lambda block: ~(_sums_to_one(block, tolerance) & (block.amin(dim=1) >= 0)),
                f"are no probabilities (finite, at least 0, sum 1 within {tolerance:.2g}); "
                "for logits use the functions that take logits",
            )
        top, predicted = p.max(dim=1)
        of_label = _pick(p, y).double().clamp_(max=1)
        yield Block(p, y, predicted, top.double().clamp_(max=1), of_label.log_().neg_())


def scores_of(blocks: Iterable[Block]) -> Scores:
    """Return the ``(N,)`` scores of all ``blocks`` together."""
    merged: list[Scores] = []
    waiting: list[Scores] = []
    for block in blocks:
        waiting.append(scores_of_block(block))
        if len(waiting) == BLOCKS_AT_ONCE:  # few long arrays: many short ones fragment the heap
            merged.append(concatenate_scores(waiting))
            waiting.clear()
    return concatenate_scores(merged + waiting)


def concatenate_scores(parts: Sequence[Scores]) -> Scores:
    """Return the scores of all ``parts`` together; no parts give arrays of length 0."""
    empty = np.zeros(0)
    parts = [Scores(empty, empty, empty.astype(np.int64), empty, empty), *parts]
    return Scores(
        confidence=np.concatenate([part.confidence for part in parts]),
        correct=np.concatenate([part.correct for part in parts]),
        predicted=np.concatenate([part.predicted for part in parts]),
        nll=np.concatenate([part.nll for part in parts]),
        brier=np.concatenate([part.brier for part in parts]),
    )


def scores_of_block(block: Block) -> Scores:
    """Return the ``Scores`` of one block, on the CPU.

    In a float32 block the squares within one row are added in float32 (pairwise, so the Brier score
    of a row errs by about 1e-7); whatever is added over rows is float64.
    """
    p = block.probabilities
    squares = (p * p).sum(dim=1).double()
    brier = squares.sub_(_pick(p, block.labels), alpha=2).add_(1).clamp_(min=0)
    return Scores(
        confidence=block.confidence.cpu().numpy(),
        correct=(block.predicted == block.labels).double().cpu().numpy(),
        predicted=block.predicted.cpu().numpy(),
        nll=block.nll.cpu().numpy(),
        brier=brier.cpu().numpy(),
    )


class _Softmax(NamedTuple):
    probabilities: Tensor  # (n, K)
    predicted: Tensor  # (n,)
    top: Tensor  # (n,) highest logit
    total: Tensor  # (n,) sum_j exp(z_j - top)


def _softmax(z: Tensor, rows: ArrayLike) -> _Softmax:
    """Return the softmax of float64 logits ``z (n, K)``, a block of ``rows``, once found finite."""
    if not z.sum(dim=1).isfinite().all() and not z.isfinite().all():  # the sum may overflow
        raise_bad_rows(rows, lambda block: ~block.isfinite().all(dim=1), "hold NaN or infinity")
    top, predicted = z.max(dim=1)
    exponentials = (z - top[:, None]).exp_()
    total = exponentials.sum(dim=1)
    return _Softmax(exponentials.div_(total[:, None]), predicted, top, total)


def _pick(rows: Tensor, column: Tensor) -> Tensor:
    """Return ``(n,)``: the entry of each of ``rows (n, K)`` in its ``column (n,)``."""
    return rows.gather(1, column[:, None]).squeeze(1)


def _sums_to_one(p: Tensor, tolerance: float) -> Tensor:
    """Return ``(n,)`` True where a row of ``p (n, K)`` sums to 1; NaN and infinity do not."""
    return (p.sum(dim=1) - 1).abs() <= tolerance


def _tolerance(rows: ArrayLike) -> float:
    """Return how far a row of this dtype may sum from 1: 1e-3, or four units of its precision."""
    eps = torch.finfo(rows.dtype).eps if isinstance(rows, Tensor) else np.finfo(rows.dtype).eps
    return max(1e-3, 4 * float(eps))
