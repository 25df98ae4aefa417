"""Image files with what is known of each, before any of them is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class FileList:
    """Image files of one split.

    Attributes:
        paths: N files.
        labels: ``(N,)`` int64, indices into ``Dataset.class_names``.
        domains: ``(N,)`` int64, indices into ``Dataset.domains``.
        clients: whose image each is by nature; None if nobody's.
    """

    paths: tuple[Path, ...] | tuple[str, ...]
    labels: Numbers
    domains: Numbers
    clients: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse parts that differ in length."""
        expected = (len(self.paths),)
        for name in ("labels", "domains"):
            array: Numbers = getattr(self, name)
            if array.dtype != np.int64 or array.shape != expected:
                raise ValueError(
                    f"{name}: expected int64 of shape {expected}, "
                    f"found {array.dtype} of shape {array.shape}"
                )
        if self.clients is not None and len(self.clients) != len(self.paths):
            raise ValueError(
                f"clients: expected {len(self.paths)} names, found {len(self.clients)}"
            )

    def __len__(self) -> int:
        """Return the number of files N."""
        return len(self.paths)

    def select(self, rows: Numbers) -> FileList:
        """Return the files at ``rows`` (``(n,)``), in that order."""
        clients = self.clients
        return FileList(
            tuple(self.paths[row] for row in rows),
            self.labels[rows],
            self.domains[rows],
            None if clients is None else tuple(clients[row] for row in rows),
        )
