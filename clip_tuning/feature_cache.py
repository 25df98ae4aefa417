"""What training cannot change of many images, computed once and kept in memory and in files."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl2ora.experiment.errors import UserError

_NAME = "features"


class FeatureCache:
    """Tables by key: the latest in memory, up to a limit; all in a folder, if there is one.

    Args:
        limit: bytes in memory.
        folder: is created; None keeps nothing on disk.
    """

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        """Hold nothing yet."""
        self._limit = limit
        self._folder = folder
        self._tables: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, key: str, size: Callable[[], int], make: Callable[[], Tensor]) -> Tensor | None:
        """Return the table of ``key``, from where it is or from ``make``.

        Of what is larger than the limit there is no table, and nothing is made.

        Args:
            key: says all that the values depend on.
            size: returns the bytes of what ``make`` returns, cheaply.
            make: computes the table, on the CPU.

        Raises:
            UserError: the folder cannot be written to.
        """
        if key in self._tables:
            self._tables.move_to_end(key)
            return self._tables[key]
        path = None if self._folder is None else self._folder / f"{key}.safetensors"
        table = None if path is None else _read(path, self._limit)
        if table is None:
            if size() > self._limit:
                return None
            table = make()
            if path is not None:
                _write(path, table)
        self._tables[key] = table
        while sum(held.nbytes for held in self._tables.values()) > self._limit:
            self._tables.popitem(last=False)
        return table


@lru_cache(maxsize=4)
def shared_cache(gib: float, folder: str) -> FeatureCache:
    """Return this process's cache.

    Args:
        gib: GiB of memory.
        folder: for files; empty: none.
    """
    return FeatureCache(int(gib * 2**30), Path(folder).expanduser() if folder else None)


def digest(tensors: Iterable[Tensor], *words: object) -> str:
    """Return a key of 32 hexadecimal digits that differs where any value or word does."""
    found = hashlib.blake2b("\0".join(map(str, words)).encode(), digest_size=16)
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous()
        found.update(f"{tuple(flat.shape)} {flat.dtype}".encode())
        found.update(flat.view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _read(path: Path, limit: int) -> Tensor | None:
    """Return a file's table; None of a missing or damaged file, or of one beyond the limit."""
    try:
        table: Tensor = load_file(path)[_NAME]
        return table if table.nbytes <= limit else None
    except (OSError, SafetensorError, KeyError):
        return None


def _write(path: Path, table: Tensor) -> None:
    """Write a file at once or not at all, whoever else writes it at the same time.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            fresh = Path(scratch) / path.name
            save_file({_NAME: table.contiguous()}, fresh)
            os.replace(fresh, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cache-dir: {path.parent} cannot be written to: {error}") from None
