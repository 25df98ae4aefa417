"""Checking ``(N, K)`` inputs with their labels, and cutting them into blocks of rows.

Blocks keep the working memory at a megabyte or so, whatever N is, and keep the work in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ArrayLike = Tensor | NDArray[Any]

_BLOCK = 1 << 17  # elements worked on at once: 1 MB of float64
_BLOCK_ON_CUDA = 1 << 24  # 128 MB, so that few kernels are launched


def check_rows(rows: ArrayLike, name: str, least: int = 1) -> None:
    """Raise a ValueError unless ``rows`` is floating point, ``(N, K)`` with ``K >= least``."""
    if not isinstance(rows, Tensor | np.ndarray):
        raise ValueError(f"{name} must be an array or a tensor, found {type(rows).__name__}")
    if rows.ndim != 2 or rows.shape[1] < least:
        raise ValueError(
            f"{name} must have shape (N, K) with K >= {least}, found {tuple(rows.shape)}"
        )
    floating = rows.is_floating_point() if isinstance(rows, Tensor) else rows.dtype.kind == "f"
    if not floating:
        raise ValueError(f"{name} must be floating point, found {rows.dtype}")


def checked_labels(labels: ArrayLike, rows: ArrayLike, name: str) -> Tensor:
    """Return ``labels`` as int64 ``(N,)``.

    Raises:
        ValueError: they are not one integer in ``0 .. K - 1`` for each of ``rows (N, K)``.
    """
    if not isinstance(labels, Tensor | np.ndarray):
        raise ValueError(f"labels must be an array or a tensor, found {type(labels).__name__}")
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


def split_rows(rows: ArrayLike, *, least: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Yield where they are and the rows ``(n, K)`` of each block, for reading only.

    Args:
        rows: ``(N, K)``, numpy or torch; a read-only memory map is fine.
        least: blocks have this dtype, or float64 where ``rows`` has.
    """
    on_cuda = isinstance(rows, Tensor) and rows.is_cuda
    step = max(1, (_BLOCK_ON_CUDA if on_cuda else _BLOCK) // rows.shape[1])
    dtype = least if rows.dtype.itemsize <= 4 else torch.float64
    numpy_dtype = np.float32 if dtype == torch.float32 else np.float64
    for start in range(0, len(rows), step):
        where = slice(start, start + step)
        part = rows[where]
        if isinstance(part, Tensor):
            part = part.detach().cpu() if part.device.type == "mps" else part.detach()
            yield where, part.to(dtype)
        elif part.flags.writeable:
            yield where, torch.from_numpy(np.ascontiguousarray(part, numpy_dtype))
        else:
            yield where, torch.from_numpy(part.astype(numpy_dtype))


def raise_bad_rows(rows: ArrayLike, is_bad: Callable[[Tensor], Tensor], what: str) -> NoReturn:
    """Raise a ValueError that counts the rows of the whole input for which ``is_bad``."""
    parts = split_rows(rows, least=torch.float32)
    flags = torch.cat([is_bad(part) for _, part in parts])
    first = int(flags.nonzero()[0])
    raise ValueError(
        f"{int(flags.sum())} of {len(flags)} rows {what} (first: row {first}, "
        f"starting {rows[first, :4].tolist()})"
    )
