"""From logits or probabilities to what calibration metrics read: confidence and correctness.

Every function says which of the two it takes; nothing is guessed from the range of the values.
Half-precision logits are widened first and the softmax is done in float64, because in float16
every confidence above about 0.99976 rounds to exactly 1. Rows are worked on in blocks, so an
``(N, K)`` input costs a few megabytes on top of itself, whatever its dtype or device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.binning import Floats, Integers

ArrayLike = Tensor | NDArray[Any]

_BLOCK = 1 << 17  # elements worked on at once: 1 MB of float64, which stays in the cache
_BLOCK_ON_CUDA = 1 << 24  # 128 MB, so that few kernels are launched


@dataclass(frozen=True)
class Block:
    """Some consecutive rows: ``probabilities (n, K)`` float64, and ``(n,)`` tensors.

    Attributes:
        probabilities: rows that sum to 1.
        labels: int64 in ``0 .. K - 1``.
        predicted: the most probable class; of equal ones the lowest index.
        nll: ``-log p`` of the label, natural logarithm.
    """

    probabilities: Tensor
    labels: Tensor
    predicted: Tensor
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
    """
    _check_rows(logits, "logits")
    blocks = [_softmax(part, logits).probabilities for _, part in _blocks(logits)]
    return torch.cat(blocks) if blocks else torch.zeros(tuple(logits.shape), dtype=torch.float64)


def blocks_of_logits(logits: ArrayLike, labels: ArrayLike) -> Iterator[Block]:
    """Yield the rows of ``logits (N, K)`` with ``labels (N,)`` as blocks of probabilities.

    Raises:
        ValueError: wrong shapes, labels outside ``0 .. K - 1``, or NaN or infinite logits.
    """
    _check_rows(logits, "logits")
    targets = _labels(labels, logits, "logits")
    for part, z in _blocks(logits):
        y = targets[part].to(z.device)
        softmax = _softmax(z, logits)
        margin = softmax.top - z.gather(1, y[:, None]).squeeze(1)
        yield Block(softmax.probabilities, y, z.argmax(dim=1), softmax.log_total + margin)


def blocks_of_probabilities(probabilities: ArrayLike, labels: ArrayLike) -> Iterator[Block]:
    """Yield the rows of ``probabilities (N, K)`` with ``labels (N,)`` as blocks.

    Rows are used as they are, not renormalised; only a rounding excess over 1 is cut off.

    Raises:
        ValueError: wrong shapes, labels outside ``0 .. K - 1``, or rows that are no distribution.
    """
    _check_rows(probabilities, "probabilities")
    targets = _labels(labels, probabilities, "probabilities")
    tolerance = _tolerance(probabilities)
    for part, p in _blocks(probabilities):
        y = targets[part].to(p.device)
        if _no_distribution(p, tolerance).any():
            _raise_bad_rows(
                probabilities,
                lambda block: _no_distribution(block, tolerance),
                f"are no probabilities (finite, at least 0, sum 1 within {tolerance:.2g}); "
                "for logits use the functions that take logits",
            )
        of_label = p.gather(1, y[:, None]).squeeze(1).clamp_(max=1)
        yield Block(p, y, p.argmax(dim=1), of_label.log_().neg_())


def scores_of(blocks: Iterable[Block]) -> Scores:
    """Return the ``(N,)`` scores of all ``blocks`` together."""
    return concatenate_scores([scores_of_block(block) for block in blocks])


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
    """Return the ``Scores`` of one block, on the CPU."""
    p = block.probabilities
    confidence = p.gather(1, block.predicted[:, None]).squeeze(1).clamp_(max=1)
    of_label = p.gather(1, block.labels[:, None]).squeeze(1)
    brier = ((p * p).sum(dim=1) - 2 * of_label + 1).clamp_(min=0)
    return Scores(
        confidence=confidence.cpu().numpy(),
        correct=(block.predicted == block.labels).double().cpu().numpy(),
        predicted=block.predicted.cpu().numpy(),
        nll=block.nll.cpu().numpy(),
        brier=brier.cpu().numpy(),
    )


class _Softmax(NamedTuple):
    probabilities: Tensor  # (n, K)
    top: Tensor  # (n,) highest logit
    log_total: Tensor  # (n,) log sum_j exp(z_j - top)


def _softmax(z: Tensor, rows: ArrayLike) -> _Softmax:
    """Return the softmax of float64 logits ``z (n, K)``, a block of ``rows``, once found finite."""
    if not z.sum(dim=1).isfinite().all():
        _raise_bad_rows(rows, lambda block: ~block.isfinite().all(dim=1), "hold NaN or infinity")
    top = z.amax(dim=1)
    exponentials = (z - top[:, None]).exp_()
    total = exponentials.sum(dim=1)
    return _Softmax(exponentials.div_(total[:, None]), top, total.log())


def _no_distribution(p: Tensor, tolerance: float) -> Tensor:
    """Return ``(n,)`` True where a row of ``p (n, K)`` is not a distribution (NaN included)."""
    return ~(((p.sum(dim=1) - 1).abs() <= tolerance) & (p.amin(dim=1) >= 0))


def _tolerance(rows: ArrayLike) -> float:
    """Return how far a row of this dtype may sum from 1: 1e-3, or four units of its precision."""
    eps = torch.finfo(rows.dtype).eps if isinstance(rows, Tensor) else np.finfo(rows.dtype).eps
    return max(1e-3, 4 * float(eps))


def _raise_bad_rows(rows: ArrayLike, is_bad: Callable[[Tensor], Tensor], what: str) -> None:
    """Raise a ValueError that counts the bad rows of the whole input."""
    flags = torch.cat([is_bad(part) for _, part in _blocks(rows)])
    if flags.any():
        first = int(flags.nonzero()[0])
        raise ValueError(
            f"{int(flags.sum())} of {len(flags)} rows {what} (first: row {first}, "
            f"starting {rows[first, :4].tolist()})"
        )


def _check_rows(rows: ArrayLike, name: str) -> None:
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise ValueError(f"{name} must have shape (N, K) with K >= 1, found {tuple(rows.shape)}")
    floating = rows.is_floating_point() if isinstance(rows, Tensor) else rows.dtype.kind == "f"
    if not floating:
        raise ValueError(f"{name} must be floating point, found {rows.dtype}")


def _labels(labels: ArrayLike, rows: ArrayLike, name: str) -> Tensor:
    """Return ``labels`` as int64 ``(N,)``, checked against ``rows (N, K)``."""
    if tuple(labels.shape) != (len(rows),):
        raise ValueError(
            f"labels must have shape ({len(rows)},) to match {name} {tuple(rows.shape)}, "
            f"found {tuple(labels.shape)}"
        )
    kind = labels.cpu().numpy().dtype.kind if isinstance(labels, Tensor) else labels.dtype.kind
    if kind not in "iu":
        raise ValueError(f"labels must be integers, found {labels.dtype}")
    targets = (
        labels.detach().to(torch.int64)
        if isinstance(labels, Tensor)
        else torch.from_numpy(labels.astype(np.int64))
    )
    outside = (targets < 0) | (targets >= rows.shape[1])
    if outside.any():
        raise ValueError(
            f"{int(outside.sum())} of {len(targets)} labels lie outside 0 .. {rows.shape[1] - 1} "
            f"(first: {int(targets[outside][0])})"
        )
    return targets


def _blocks(rows: ArrayLike) -> Iterator[tuple[slice, Tensor]]:
    """Yield consecutive rows as float64 ``(n, K)``, and where; a read-only memory map is fine."""
    on_cuda = isinstance(rows, Tensor) and rows.is_cuda
    step = max(1, (_BLOCK_ON_CUDA if on_cuda else _BLOCK) // rows.shape[1])
    for start in range(0, len(rows), step):
        where = slice(start, start + step)
        part = rows[where]
        if isinstance(part, Tensor):
            part = part.detach().cpu() if part.device.type == "mps" else part.detach()
            yield where, part.to(torch.float64)
        else:
            yield where, torch.from_numpy(part.astype(np.float64))
